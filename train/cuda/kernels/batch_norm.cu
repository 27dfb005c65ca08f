// Batch normalization over the rows [M, C] of an NHWC tensor: statistics, application, gradients.
//
// Every reduction has two stages with fixed shapes and no atomics, so the same input gives the same bits.
#include "common.cuh"
#include "upstream.cuh"

// ---- statistics ------------------------------------------------------------------------------------------------

// The rows that count: all rows, or those in visible cells of a mask.
struct All {
    __device__ __forceinline__ bool operator()(i64) const { return true; }
};
struct Visible {
    const u8 *mask;
    int height, width, cells_high, cells_wide;
    __device__ __forceinline__ bool operator()(i64 row) const {
        const int column = row % width;
        const i64 line = row / width;
        const int y = line % height;
        const i64 image = line / height;
        const int cell = (y / (height / cells_high)) * cells_wide + column / (width / cells_wide);
        return mask[image * cells_high * cells_wide + cell] != 0;
    }
};

// Per block: sums of (x - k) and (x - k)^2, where k is the first row, so that a mean far from zero costs no precision.
// partial: [parts][2][C], then [C] for k.
template <typename T, int V, typename Counts>
__device__ void statistics(const T *x, i64 rows, int channels, float *partial, Counts counts) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    float sums[2][V] = {};
    if (c < channels) {
        float k[V];
        Lanes<T, V>::load(x + c, k);
        if (blockIdx.y == 0 && threadIdx.y == 0)
#pragma unroll
            for (int i = 0; i < V; i++) partial[i64(gridDim.y) * 2 * channels + c + i] = k[i];
        const i64 step = i64(gridDim.y) * blockDim.y;
        i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y;
        auto add = [&](const typename Lanes<T, V>::Raw &raw, i64 at) {
            if (!counts(at)) return;
            float v[V];
            Lanes<T, V>::unpack(raw, v);
#pragma unroll
            for (int i = 0; i < V; i++) {
                const float d = v[i] - k[i];
                sums[0][i] += d;
                sums[1][i] = fmaf(d, d, sums[1][i]);
            }
        };
        constexpr int U = 4;
        for (; row + (U - 1) * step < rows; row += U * step) {
            typename Lanes<T, V>::Raw raw[U];
#pragma unroll
            for (int u = 0; u < U; u++) raw[u] = Lanes<T, V>::read(x + (row + u * step) * channels + c);
#pragma unroll
            for (int u = 0; u < U; u++) add(raw[u], row + u * step);
        }
        for (; row < rows; row += step) add(Lanes<T, V>::read(x + row * channels + c), row);
    }
    reduce_rows<2, V>(sums, channels, partial + i64(blockIdx.y) * 2 * channels);
}

#define STATISTICS(T, V)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bn_statistics_##T##_##V(const T *x, i64 rows, int channels, float *partial) {                                  \
        statistics<T, V>(x, rows, channels, partial, All{});                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bn_statistics_masked_##T##_##V(const T *x, i64 rows, int channels, float *partial, const u8 *mask, int height, \
                                       int width, int cells_high, int cells_wide) {                                    \
        statistics<T, V>(x, rows, channels, partial, Visible{mask, height, width, cells_high, cells_wide});            \
    }
FOR_ALL(STATISTICS)

// kept: [4][C]: mean, 1 / sqrt(variance + eps), scale, shift.
__device__ __forceinline__ void keep(float *kept, int channels, int c, double mean, double inverse, float gamma, float beta) {
    const double scale = gamma * inverse;
    kept[c] = mean;
    kept[channels + c] = inverse;
    kept[2 * channels + c] = scale;
    kept[3 * channels + c] = beta - mean * scale;
}

extern "C" __global__ void bn_finish(const float *partial, int parts, i64 rows, int channels, const float *gamma,
                                     const float *beta, float eps, float momentum, float *running_mean,
                                     float *running_variance, float *kept) {
    const int c = blockIdx.x * 32 + threadIdx.x;
    double sums[2];
    sum_parts<2>(partial, parts, channels, c, sums);
    if (threadIdx.y != 0 || c >= channels) return;
    const double k = partial[i64(parts) * 2 * channels + c];
    const double offset = sums[0] / rows;
    const double mean = k + offset;
    const double variance = fmax(sums[1] / rows - offset * offset, 0.);
    keep(kept, channels, c, mean, 1. / sqrt(variance + eps), gamma[c], beta[c]);
    if (running_mean != nullptr) {
        const double unbiased = rows > 1 ? variance * (double(rows) / double(rows - 1)) : variance;
        running_mean[c] = (1.f - momentum) * running_mean[c] + momentum * float(mean);
        running_variance[c] = (1.f - momentum) * running_variance[c] + momentum * float(unbiased);
    }
}

extern "C" __global__ void bn_inference(int channels, const float *mean, const float *variance, const float *gamma,
                                        const float *beta, float eps, float *kept) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < channels) keep(kept, channels, c, mean[c], 1. / sqrt(double(variance[c]) + eps), gamma[c], beta[c]);
}

// ---- application -----------------------------------------------------------------------------------------------

// y = activation(norm(a) + norm(b)); without a second summand y = activation(norm(a)).
template <typename T, int V, bool SUM>
__device__ void apply(const T *a, Norm norm_a, const T *b, Norm norm_b, int activation, i64 rows, int channels, T *y) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= channels) return;
    const Affine<V> first(norm_a, c);
    const Affine<V> second(norm_b, c);
    const i64 step = i64(gridDim.y) * blockDim.y;
    constexpr int U = SUM ? 2 : 4;
    for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += U * step) {
        typename Lanes<T, V>::Raw raw_a[U], raw_b[U];
#pragma unroll
        for (int u = 0; u < U; u++)
            if (row + u * step < rows) {
                const i64 at = (row + u * step) * channels + c;
                raw_a[u] = Lanes<T, V>::read(a + at);
                if (SUM) raw_b[u] = Lanes<T, V>::read(b + at);
            }
#pragma unroll
        for (int u = 0; u < U; u++)
            if (row + u * step < rows) {
                float v[V];
                Lanes<T, V>::unpack(raw_a[u], v);
                first.apply(v);
                if (SUM) {
                    float w[V];
                    Lanes<T, V>::unpack(raw_b[u], w);
                    second.apply(w);
#pragma unroll
                    for (int i = 0; i < V; i++) v[i] += w[i];
                }
                activate<V>(activation, v);
                Lanes<T, V>::store(y + (row + u * step) * channels + c, v);
            }
    }
}

#define APPLY(T, V)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        apply_##T##_##V(const T *a, Norm norm, i64 rows, int channels, T *y) {                                         \
        apply<T, V, false>(a, norm, nullptr, Norm{}, IDENTITY, rows, channels, y);                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        add_##T##_##V(const T *a, Norm norm_a, const T *b, Norm norm_b, int activation, i64 rows, int channels, T *y) { \
        apply<T, V, true>(a, norm_a, b, norm_b, activation, rows, channels, y);                                        \
    }
FOR_ALL(APPLY)

// ---- gradients -------------------------------------------------------------------------------------------------

// Sums of g and of g * (x - mean) with g = dy * activation'(x * scale + shift). partial: [parts][2][C].
template <typename T, int V, typename Upstream>
__device__ void backward_sums(const T *x, Upstream upstream, i64 rows, int channels, const float *kept, int activation, float *partial) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    float sums[2][V] = {};
    if (c < channels) {
        float mean[V];
        load_channels<V>(kept + c, mean);
        const Affine<V> affine(Norm{kept + 2 * channels, kept + 3 * channels, activation}, c);
        const i64 step = i64(gridDim.y) * blockDim.y;
        constexpr int U = 2;
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += U * step) {
            typename Lanes<T, V>::Raw raw_x[U];
            typename Upstream::Raw raw_g[U];
#pragma unroll
            for (int u = 0; u < U; u++)
                if (row + u * step < rows) {
                    raw_x[u] = Lanes<T, V>::read(x + (row + u * step) * channels + c);
                    raw_g[u] = upstream.read(row + u * step, channels, c);
                }
#pragma unroll
            for (int u = 0; u < U; u++)
                if (row + u * step < rows) {
                    float v[V], g[V], pre[V];
                    Lanes<T, V>::unpack(raw_x[u], v);
                    upstream.unpack(raw_g[u], row + u * step, channels, c, g);
#pragma unroll
                    for (int i = 0; i < V; i++) pre[i] = fmaf(v[i], affine.scale[i], affine.shift[i]);
                    activate_backward<V>(activation, pre, g);
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        sums[0][i] += g[i];
                        sums[1][i] = fmaf(g[i], v[i] - mean[i], sums[1][i]);
                    }
                }
        }
    }
    reduce_rows<2, V>(sums, channels, partial + i64(blockIdx.y) * 2 * channels);
}

// Gradients of scale and shift, and the factors of dx = a * g + b * (x - mean) + d. factors: [3][C]: a, b, d.
extern "C" __global__ void bn_backward_finish(const float *partial, int parts, i64 rows, int channels, const float *kept,
                                              int accumulate, float *dgamma, float *dbeta, float *factors) {
    const int c = blockIdx.x * 32 + threadIdx.x;
    double sums[2];
    sum_parts<2>(partial, parts, channels, c, sums);
    if (threadIdx.y != 0 || c >= channels) return;
    const double inverse = kept[channels + c];
    sums[1] *= inverse;
    dbeta[c] = accumulate ? dbeta[c] + float(sums[0]) : float(sums[0]);
    dgamma[c] = accumulate ? dgamma[c] + float(sums[1]) : float(sums[1]);
    const double a = kept[2 * channels + c];
    factors[c] = a;
    factors[channels + c] = -a * inverse * (sums[1] / rows);
    factors[2 * channels + c] = -a * (sums[0] / rows);
}

template <typename T, int V, typename Upstream>
__device__ void backward_input(const T *x, Upstream upstream, i64 rows, int channels, const float *kept, const float *factors,
                               int activation, T *dx, int accumulate) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= channels) return;
    float a[V], b[V], d[V], mean[V];
    load_channels<V>(factors + c, a);
    load_channels<V>(factors + channels + c, b);
    load_channels<V>(factors + 2 * channels + c, d);
    load_channels<V>(kept + c, mean);
    // b * (x - mean) + d rewritten as b * x + e would lose precision if the mean is large, so it keeps the difference.
    const Affine<V> affine(Norm{kept + 2 * channels, kept + 3 * channels, activation}, c);
    const i64 step = i64(gridDim.y) * blockDim.y;
    constexpr int U = 2;
    for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += U * step) {
        typename Lanes<T, V>::Raw raw_x[U];
        typename Upstream::Raw raw_g[U];
#pragma unroll
        for (int u = 0; u < U; u++)
            if (row + u * step < rows) {
                raw_x[u] = Lanes<T, V>::read(x + (row + u * step) * channels + c);
                raw_g[u] = upstream.read(row + u * step, channels, c);
            }
#pragma unroll
        for (int u = 0; u < U; u++)
            if (row + u * step < rows) {
                float v[V], g[V], pre[V];
                Lanes<T, V>::unpack(raw_x[u], v);
                upstream.unpack(raw_g[u], row + u * step, channels, c, g);
#pragma unroll
                for (int i = 0; i < V; i++) pre[i] = fmaf(v[i], affine.scale[i], affine.shift[i]);
                activate_backward<V>(activation, pre, g);
                T *to = dx + (row + u * step) * channels + c;
                float old[V] = {};
                if (accumulate) Lanes<T, V>::load(to, old);
#pragma unroll
                for (int i = 0; i < V; i++) g[i] = fmaf(a[i], g[i], fmaf(b[i], v[i] - mean[i], d[i])) + old[i];
                Lanes<T, V>::store(to, g);
            }
    }
}

#define BACKWARD(T, V)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) bn_backward_sums_##T##_##V(                                  \
        const T *x, const T *dy, i64 rows, int channels, const float *kept, int activation, float *partial) {          \
        backward_sums<T, V>(x, Dense<T, V>{dy}, rows, channels, kept, activation, partial);                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bn_backward_input_##T##_##V(const T *x, const T *dy, i64 rows, int channels, const float *kept,                \
                                    const float *factors, int activation, T *dx, int accumulate) {                     \
        backward_input<T, V>(x, Dense<T, V>{dy}, rows, channels, kept, factors, activation, dx, accumulate);           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bn_backward_sums_pooled_##T##_##V(const T *x, const T *dy, const u8 *taken, Sliding s, i64 rows, int channels, \
                                          const float *kept, int activation, float *partial) {                         \
        backward_sums<T, V>(x, Pooled<T, V>{dy, taken, s}, rows, channels, kept, activation, partial);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) bn_backward_input_pooled_##T##_##V(                          \
        const T *x, const T *dy, const u8 *taken, Sliding s, i64 rows, int channels, const float *kept,                \
        const float *factors, int activation, T *dx, int accumulate) {                                                 \
        backward_input<T, V>(x, Pooled<T, V>{dy, taken, s}, rows, channels, kept, factors, activation, dx, accumulate); \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bn_backward_sums_averaged_##T##_##V(const T *x, const float *dy, int pixels, i64 rows, int channels,           \
                                            const float *kept, int activation, float *partial) {                       \
        backward_sums<T, V>(x, Averaged<T, V>{dy, pixels}, rows, channels, kept, activation, partial);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) bn_backward_input_averaged_##T##_##V(                        \
        const T *x, const float *dy, int pixels, i64 rows, int channels, const float *kept, const float *factors,      \
        int activation, T *dx, int accumulate) {                                                                       \
        backward_input<T, V>(x, Averaged<T, V>{dy, pixels}, rows, channels, kept, factors, activation, dx, accumulate); \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        max_pool_backward_##T##_##V(const T *dy, const u8 *taken, Sliding s, i64 rows, int channels, T *dx,            \
                                    int accumulate) {                                                                  \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        const Pooled<T, V> upstream{dy, taken, s};                                                                     \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            float g[V];                                                                                                \
            upstream.gather(row, channels, c, g);                                                                      \
            T *to = dx + row * channels + c;                                                                           \
            if (accumulate) {                                                                                          \
                float old[V];                                                                                          \
                Lanes<T, V>::load(to, old);                                                                            \
                _Pragma("unroll") for (int i = 0; i < V; i++) g[i] += old[i];                                          \
            }                                                                                                          \
            Lanes<T, V>::store(to, g);                                                                                 \
        }                                                                                                              \
    }
FOR_ALL(BACKWARD)

// The same for the usual pool, 3x3 with stride 2 and padding 1. A thread takes the 2x2 inputs at (2a, 2b), which are in
// the windows (a, b) to (a + 1, b + 1) only. All loads are issued before the first is used.
template <typename T, int V> struct Quad {
    typename Lanes<T, V>::Raw dy[2][2];
    typename Bytes<V>::Type taken[2][2];
    bool inside[2][2];
    int y, x;
    i64 input;

    __device__ __forceinline__ Quad(const T *gradient, const u8 *taps, const Sliding &s, u32 number, int c) {
        const u32 line = number / u32(s.out_width);
        const int b = number - line * s.out_width;
        const u32 image = line / u32(s.out_height);
        const int a = line - image * s.out_height;
        y = 2 * a, x = 2 * b;
        input = ((i64(image) * s.height + y) * s.width + x) * s.channels + c;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                inside[i][j] = a + i < s.out_height && b + j < s.out_width;
                const i64 at = (i64(number) + i * s.out_width + j) * s.channels + c;
                if (inside[i][j]) {
                    dy[i][j] = Lanes<T, V>::read(gradient + at);
                    taken[i][j] = *reinterpret_cast<const typename Bytes<V>::Type *>(taps + at);
                }
            }
    }

    // Adds the gradient of input (row, column) of the four.
    __device__ __forceinline__ void gather(int row, int column, float (&g)[V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) g[i] = 0.f;
#pragma unroll
        for (int i = 0; i <= row; i++)
#pragma unroll
            for (int j = 0; j <= column; j++) {
                if (!inside[i][j]) continue;
                const int tap = (row + 1 - 2 * i) * 3 + column + 1 - 2 * j;
                const u8 *taps = reinterpret_cast<const u8 *>(&taken[i][j]);
                float d[V];
                Lanes<T, V>::unpack(dy[i][j], d);
#pragma unroll
                for (int k = 0; k < V; k++) g[k] += taps[k] == tap ? d[k] : 0.f;
            }
    }
};

// backward_sums, backward_input and the pool's own gradient by quads; `quads` is the number of the pool's outputs.
template <typename T, int V>
__device__ void quad_sums(const T *x, const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, const float *kept, int activation,
                          float *partial) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    float sums[2][V] = {};
    if (c < channels) {
        float mean[V];
        load_channels<V>(kept + c, mean);
        const Affine<V> affine(Norm{kept + 2 * channels, kept + 3 * channels, activation}, c);
        for (i64 number = i64(blockIdx.y) * blockDim.y + threadIdx.y; number < quads; number += i64(gridDim.y) * blockDim.y) {
            const Quad<T, V> quad(dy, taken, s, u32(number), c);
            typename Lanes<T, V>::Raw raw[2][2];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    if (quad.y + i < s.height && quad.x + j < s.width)
                        raw[i][j] = Lanes<T, V>::read(x + quad.input + (i64(i) * s.width + j) * channels);
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    if (quad.y + i >= s.height || quad.x + j >= s.width) continue;
                    float g[V], v[V], pre[V];
                    quad.gather(i, j, g);
                    Lanes<T, V>::unpack(raw[i][j], v);
#pragma unroll
                    for (int k = 0; k < V; k++) pre[k] = fmaf(v[k], affine.scale[k], affine.shift[k]);
                    activate_backward<V>(activation, pre, g);
#pragma unroll
                    for (int k = 0; k < V; k++) {
                        sums[0][k] += g[k];
                        sums[1][k] = fmaf(g[k], v[k] - mean[k], sums[1][k]);
                    }
                }
        }
    }
    reduce_rows<2, V>(sums, channels, partial + i64(blockIdx.y) * 2 * channels);
}

template <typename T, int V>
__device__ void quad_input(const T *x, const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, const float *kept,
                           const float *factors, int activation, T *dx, int accumulate) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= channels) return;
    float a[V], b[V], d[V], mean[V];
    load_channels<V>(factors + c, a);
    load_channels<V>(factors + channels + c, b);
    load_channels<V>(factors + 2 * channels + c, d);
    load_channels<V>(kept + c, mean);
    const Affine<V> affine(Norm{kept + 2 * channels, kept + 3 * channels, activation}, c);
    for (i64 number = i64(blockIdx.y) * blockDim.y + threadIdx.y; number < quads; number += i64(gridDim.y) * blockDim.y) {
        const Quad<T, V> quad(dy, taken, s, u32(number), c);
        typename Lanes<T, V>::Raw raw[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (quad.y + i < s.height && quad.x + j < s.width)
                    raw[i][j] = Lanes<T, V>::read(x + quad.input + (i64(i) * s.width + j) * channels);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (quad.y + i >= s.height || quad.x + j >= s.width) continue;
                float g[V], v[V], pre[V], old[V] = {};
                quad.gather(i, j, g);
                Lanes<T, V>::unpack(raw[i][j], v);
#pragma unroll
                for (int k = 0; k < V; k++) pre[k] = fmaf(v[k], affine.scale[k], affine.shift[k]);
                activate_backward<V>(activation, pre, g);
                T *to = dx + quad.input + (i64(i) * s.width + j) * channels;
                if (accumulate) Lanes<T, V>::load(to, old);
#pragma unroll
                for (int k = 0; k < V; k++) g[k] = fmaf(a[k], g[k], fmaf(b[k], v[k] - mean[k], d[k])) + old[k];
                Lanes<T, V>::store(to, g);
            }
    }
}

template <typename T, int V>
__device__ void quad_spread(const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, T *dx, int accumulate) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= channels) return;
    for (i64 number = i64(blockIdx.y) * blockDim.y + threadIdx.y; number < quads; number += i64(gridDim.y) * blockDim.y) {
        const Quad<T, V> quad(dy, taken, s, u32(number), c);
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                if (quad.y + i >= s.height || quad.x + j >= s.width) continue;
                float g[V], old[V];
                quad.gather(i, j, g);
                T *to = dx + quad.input + (i64(i) * s.width + j) * channels;
                if (accumulate) {
                    Lanes<T, V>::load(to, old);
#pragma unroll
                    for (int k = 0; k < V; k++) g[k] += old[k];
                }
                Lanes<T, V>::store(to, g);
            }
    }
}

#define QUADS(T, V)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                              \
        bn_backward_sums_quads_##T##_##V(const T *x, const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, \
                                         const float *kept, int activation, float *partial) {                          \
        quad_sums<T, V>(x, dy, taken, s, quads, channels, kept, activation, partial);                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) bn_backward_input_quads_##T##_##V(                           \
        const T *x, const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, const float *kept,               \
        const float *factors, int activation, T *dx, int accumulate) {                                                 \
        quad_input<T, V>(x, dy, taken, s, quads, channels, kept, factors, activation, dx, accumulate);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                              \
        max_pool_backward_quads_##T##_##V(const T *dy, const u8 *taken, Sliding s, i64 quads, int channels, T *dx,     \
                                          int accumulate) {                                                            \
        quad_spread<T, V>(dy, taken, s, quads, channels, dx, accumulate);                                              \
    }
FOR_ALL(QUADS)

// The end of a residual block, y = activation(norm1(x1) + r) with r = x2 or norm2(x2), and an activation whose
// derivative can be computed from y (identity, ReLU, ReLU6). dy becomes g = dy * activation'(y), and the same pass
// computes the sums of both normalizations. partial1, partial2: [parts][2][C]; partial2 may be null.
template <typename T, int V, bool TWO>
__device__ void residual_backward(const T *y, T *dy, const T *x1, const float *kept1, const T *x2, const float *kept2, int activation,
                                  i64 rows, int channels, float *partial1, float *partial2) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    float sums[TWO ? 3 : 2][V] = {};
    if (c < channels) {
        float mean1[V], mean2[V];
        load_channels<V>(kept1 + c, mean1);
        if (TWO) load_channels<V>(kept2 + c, mean2);
        const i64 step = i64(gridDim.y) * blockDim.y;
        constexpr int U = 2;
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += U * step) {
            typename Lanes<T, V>::Raw raw_y[U], raw_g[U], raw_1[U], raw_2[U];
#pragma unroll
            for (int u = 0; u < U; u++)
                if (row + u * step < rows) {
                    const i64 at = (row + u * step) * channels + c;
                    raw_g[u] = Lanes<T, V>::read(dy + at);
                    if (activation != IDENTITY) raw_y[u] = Lanes<T, V>::read(y + at);
                    raw_1[u] = Lanes<T, V>::read(x1 + at);
                    if (TWO) raw_2[u] = Lanes<T, V>::read(x2 + at);
                }
#pragma unroll
            for (int u = 0; u < U; u++)
                if (row + u * step < rows) {
                    float g[V], v[V];
                    Lanes<T, V>::unpack(raw_g[u], g);
                    if (activation != IDENTITY) {
                        Lanes<T, V>::unpack(raw_y[u], v);
                        activate_backward<V>(activation, v, g);
                        Lanes<T, V>::store(dy + (row + u * step) * channels + c, g);
                    }
                    Lanes<T, V>::unpack(raw_1[u], v);
#pragma unroll
                    for (int i = 0; i < V; i++) {
                        sums[0][i] += g[i];
                        sums[1][i] = fmaf(g[i], v[i] - mean1[i], sums[1][i]);
                    }
                    if constexpr (TWO) {
                        Lanes<T, V>::unpack(raw_2[u], v);
#pragma unroll
                        for (int i = 0; i < V; i++) sums[2][i] = fmaf(g[i], v[i] - mean2[i], sums[2][i]);
                    }
                }
        }
    }
    float one[2][V];
#pragma unroll
    for (int i = 0; i < V; i++) one[0][i] = sums[0][i], one[1][i] = sums[1][i];
    reduce_rows<2, V>(one, channels, partial1 + i64(blockIdx.y) * 2 * channels);
    if constexpr (TWO) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < V; i++) one[1][i] = sums[2][i];
        reduce_rows<2, V>(one, channels, partial2 + i64(blockIdx.y) * 2 * channels);
    }
}

#define RESIDUAL(T, V)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        residual_backward_##T##_##V(const T *y, T *dy, const T *x1, const float *kept1, int activation, i64 rows,      \
                                    int channels, float *partial1) {                                                   \
        residual_backward<T, V, false>(y, dy, x1, kept1, nullptr, nullptr, activation, rows, channels, partial1, nullptr); \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) residual_backward_two_##T##_##V(                             \
        const T *y, T *dy, const T *x1, const float *kept1, const T *x2, const float *kept2, int activation, i64 rows, \
        int channels, float *partial1, float *partial2) {                                                              \
        residual_backward<T, V, true>(y, dy, x1, kept1, x2, kept2, activation, rows, channels, partial1, partial2);    \
    }
FOR_ALL(RESIDUAL)
