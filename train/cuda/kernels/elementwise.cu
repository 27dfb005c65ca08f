// Element-wise kernels: activations, sums, conversions, images, masks, dropout; and kernels per image and channel:
// average and scale.
#include "common.cuh"

// Calls f(first, count) for every group of V elements; the last group may be short.
template <int V, typename F> __device__ __forceinline__ void for_groups(i64 len, F f) {
    const i64 step = i64(gridDim.x) * blockDim.x * V;
    for (i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * V; at < len; at += step)
        f(at, len - at < V ? int(len - at) : V);
}

template <typename T, int V> __device__ __forceinline__ void load_some(const T *at, int count, float (&v)[V]) {
    if (count == V) {
        Lanes<T, V>::load(at, v);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = i < count ? to_float(at[i]) : 0.f;
    }
}

template <typename T, int V> __device__ __forceinline__ void store_some(T *at, int count, const float (&v)[V]) {
    if (count == V) {
        Lanes<T, V>::store(at, v);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (i < count) at[i] = from_float<T>(v[i]);
    }
}

// Largest value of each window; `taken` receives its tap: the first of equals, or a NaN. K: side of the window if it is
// known at compile time, else 0.
//
// After an activation that increases everywhere, the largest value is that of the largest (or, for a negative scale,
// smallest) input, so only that input is normalized. Where the activation is flat, the tap may not be the first of
// equals, but its gradient is 0 as well.
template <typename T, int V, int K>
__device__ void max_pool(const T *x, Norm norm, Sliding s, i64 rows, T *y, u8 *taken) {
    const int channels = s.channels;
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= channels) return;
    const Affine<V> affine(norm, c);
    const bool rising = norm.activation != HARD_SWISH && norm.activation != SILU;
    float sign[V];
#pragma unroll
    for (int i = 0; i < V; i++) sign[i] = affine.present && rising && affine.scale[i] < 0.f ? -1.f : 1.f;
    const int high = K > 0 ? K : s.kernel_height, wide = K > 0 ? K : s.kernel_width;
    for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {
        const u32 line = u32(row) / u32(s.out_width);
        const int x0 = int(u32(row) - line * s.out_width) * s.stride - s.padding;
        const u32 image = line / u32(s.out_height);
        const int y0 = int(line - image * s.out_height) * s.stride - s.padding;
        float best[V];
        int taps[V];
#pragma unroll
        for (int i = 0; i < V; i++) best[i] = -INFINITY, taps[i] = -1;
        auto look = [&](const typename Lanes<T, V>::Raw &raw, int tap) {
            float v[V];
            Lanes<T, V>::unpack(raw, v);
            if (rising) {
#pragma unroll
                for (int i = 0; i < V; i++) v[i] *= sign[i];
            } else {
                affine.apply(v);
            }
#pragma unroll
            for (int i = 0; i < V; i++)
                if (v[i] > best[i] || v[i] != v[i] || taps[i] < 0) best[i] = v[i], taps[i] = tap;
        };
        const T *corner = x + ((i64(image) * s.height + y0) * s.width + x0) * channels + c;
        if constexpr (K > 0) {
            typename Lanes<T, V>::Raw raw[K][K];
            bool inside[K][K];
#pragma unroll
            for (int r = 0; r < K; r++)
#pragma unroll
                for (int q = 0; q < K; q++) {
                    inside[r][q] = y0 + r >= 0 && y0 + r < s.height && x0 + q >= 0 && x0 + q < s.width;
                    if (inside[r][q]) raw[r][q] = Lanes<T, V>::read(corner + (i64(r) * s.width + q) * channels);
                }
#pragma unroll
            for (int r = 0; r < K; r++)
#pragma unroll
                for (int q = 0; q < K; q++)
                    if (inside[r][q]) look(raw[r][q], r * K + q);
        } else {
            for (int r = 0; r < high; r++)
                for (int q = 0; q < wide; q++)
                    if (y0 + r >= 0 && y0 + r < s.height && x0 + q >= 0 && x0 + q < s.width)
                        look(Lanes<T, V>::read(corner + (i64(r) * s.width + q) * channels), r * wide + q);
        }
        if (rising) {
#pragma unroll
            for (int i = 0; i < V; i++) best[i] *= sign[i];
            affine.apply(best);
        }
        Lanes<T, V>::store(y + row * channels + c, best);
        typename Bytes<V>::Type raw;
        u8 *bytes = reinterpret_cast<u8 *>(&raw);
#pragma unroll
        for (int i = 0; i < V; i++) bytes[i] = taps[i];
        *reinterpret_cast<typename Bytes<V>::Type *>(taken + row * channels + c) = raw;
    }
}

#define POOLS(T, V)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        max_pool_##T##_##V(const T *x, Norm norm, Sliding s, i64 rows, T *y, u8 *taken) {                              \
        max_pool<T, V, 0>(x, norm, s, rows, y, taken);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        max_pool_3_##T##_##V(const T *x, Norm norm, Sliding s, i64 rows, T *y, u8 *taken) {                            \
        max_pool<T, V, 3>(x, norm, s, rows, y, taken);                                                                 \
    }
FOR_ALL(POOLS)

// A convolution with stride 2 over few channels as a convolution with stride 1 over the four pixels of 2x2 blocks: see
// train/cuda/src/stem.rs. Block row q holds input rows 2 q - 2 m and 2 q - 2 m + 1; its channels are (row, column,
// channel), then zeros.
struct Stem {
    int batch, height, width, channels, outputs, side, half, shift, m, block_height, block_width, depth;
};

template <typename T> __device__ void stem_images(const T *x, Stem s, T *y) {
    const u32 blocks = u32(s.batch) * s.block_height * s.block_width;
    for (u32 at = blockIdx.x * blockDim.x + threadIdx.x; at < blocks; at += gridDim.x * blockDim.x) {
        const u32 line = at / s.block_width;
        const int left = 2 * int(at - line * s.block_width) - 2 * s.m;
        const u32 image = line / s.block_height;
        const int top = 2 * int(line - image * s.block_height) - 2 * s.m;
        T *to = y + i64(at) * s.depth;
        for (int first = 0; first < s.depth; first += 8) {
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int place = (first + i) / s.channels, c = (first + i) % s.channels;
                const int iy = top + place / 2, ix = left + place % 2;
                const bool inside = place < 4 && iy >= 0 && iy < s.height && ix >= 0 && ix < s.width;
                v[i] = inside ? to_float(x[((i64(image) * s.height + iy) * s.width + ix) * s.channels + c]) : 0.f;
            }
            constexpr int V = 16 / sizeof(T) < 8 ? 4 : 8;
#pragma unroll
            for (int i = 0; i < 8; i += V) {
                float part[V];
#pragma unroll
                for (int k = 0; k < V; k++) part[k] = v[i + k];
                Lanes<T, V>::store(to + first + i, part);
            }
        }
    }
}

// Index of weight (o, r, q, c) of the filters [O][side][side][C] in the filters over blocks, [O][half][half][depth].
__device__ __forceinline__ int stem_place(const Stem &s, int o, int r, int q, int c) {
    const int y = r + s.shift, x = q + s.shift;
    return ((o * s.half + y / 2) * s.half + x / 2) * s.depth + (y % 2 * 2 + x % 2) * s.channels + c;
}

// The caller has set `blocks` to zero.
template <typename T> __device__ void stem_filters(const T *w, Stem s, T *blocks) {
    const int len = s.outputs * s.side * s.side * s.channels;
    for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < len; at += gridDim.x * blockDim.x) {
        const int c = at % s.channels, tap = at / s.channels % (s.side * s.side), o = at / s.channels / (s.side * s.side);
        blocks[stem_place(s, o, tap / s.side, tap % s.side, c)] = w[at];
    }
}

template <typename T> __device__ void stem_gradient(const T *blocks, Stem s, float *dw, int accumulate) {
    const int len = s.outputs * s.side * s.side * s.channels;
    for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < len; at += gridDim.x * blockDim.x) {
        const int c = at % s.channels, tap = at / s.channels % (s.side * s.side), o = at / s.channels / (s.side * s.side);
        const float value = to_float(blocks[stem_place(s, o, tap / s.side, tap % s.side, c)]);
        dw[at] = accumulate ? dw[at] + value : value;
    }
}

#define STEM(T)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) stem_images_##T##_1(const T *x, Stem s, T *y) {              \
        stem_images<T>(x, s, y);                                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) stem_filters_##T##_1(const T *w, Stem s, T *blocks) {        \
        stem_filters<T>(w, s, blocks);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        stem_gradient_##T##_1(const T *blocks, Stem s, float *dw, int accumulate) {                                    \
        stem_gradient<T>(blocks, s, dw, accumulate);                                                                   \
    }
STEM(f32) STEM(f16) STEM(bf16)

#define MAPS(T, V)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS) activate_##T##_##V(const T *x, int activation, i64 len, T *y) { \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            float v[V];                                                                                                \
            load_some<T, V>(x + at, count, v);                                                                         \
            activate<V>(activation, v);                                                                                \
            store_some<T, V>(y + at, count, v);                                                                        \
        });                                                                                                            \
    }                                                                                                                  \
    /* dy *= activation'(u) */                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        activate_backward_##T##_##V(const T *u, int activation, i64 len, T *dy) {                                      \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            float v[V], g[V];                                                                                          \
            load_some<T, V>(u + at, count, v);                                                                         \
            load_some<T, V>(dy + at, count, g);                                                                        \
            activate_backward<V>(activation, v, g);                                                                    \
            store_some<T, V>(dy + at, count, g);                                                                       \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) add_into_##T##_##V(const T *from, i64 len, T *to) {          \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            float v[V], w[V];                                                                                          \
            load_some<T, V>(from + at, count, v);                                                                      \
            load_some<T, V>(to + at, count, w);                                                                        \
            _Pragma("unroll") for (int i = 0; i < V; i++) w[i] += v[i];                                                \
            store_some<T, V>(to + at, count, w);                                                                       \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) widen_##T##_##V(const T *from, i64 len, float *to, int accumulate) { \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            float v[V];                                                                                                \
            load_some<T, V>(from + at, count, v);                                                                      \
            _Pragma("unroll") for (int i = 0; i < V; i++) if (i < count) to[at + i] = accumulate ? to[at + i] + v[i] : v[i]; \
        });                                                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) narrow_##T##_##V(const float *from, i64 len, T *to) {        \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            float v[V];                                                                                                \
            _Pragma("unroll") for (int i = 0; i < V; i++) v[i] = i < count ? from[at + i] : 0.f;                       \
            store_some<T, V>(to + at, count, v);                                                                       \
        });                                                                                                            \
    }                                                                                                                  \
    /* (value / 255 - mean) / deviation as value * factor + summand; three channels, `padding` zeros after them. */    \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        images_##T##_##V(const u8 *rgb, i64 len, float3 factor, float3 summand, T *y) {                                \
        const float f[3] = {factor.x, factor.y, factor.z}, s[3] = {summand.x, summand.y, summand.z};                   \
        for_groups<V>(len, [&](i64 at, int count) {                                                                    \
            int c = at % 3;                                                                                            \
            float v[V];                                                                                                \
            load_some<u8, V>(rgb + at, count, v);                                                                      \
            _Pragma("unroll") for (int i = 0; i < V; i++) {                                                            \
                v[i] = fmaf(v[i], c == 0 ? f[0] : (c == 1 ? f[1] : f[2]), c == 0 ? s[0] : (c == 1 ? s[1] : s[2]));     \
                c = c == 2 ? 0 : c + 1;                                                                                \
            }                                                                                                          \
            store_some<T, V>(y + at, count, v);                                                                        \
        });                                                                                                            \
    }                                                                                                                  \
    /* Zero, or `token` [C] if there is one, in hidden cells of mask [B][cells_high][cells_wide]. */                   \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        mask_##T##_##V(T *x, i64 rows, int channels, const u8 *mask, int height, int width, int cells_high, int cells_wide, const float *token) { \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        float fill[V] = {};                                                                                            \
        if (token != nullptr) load_channels<V>(token + c, fill);                                                       \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            const int column = row % width;                                                                            \
            const i64 line = row / width;                                                                              \
            const int cell = (int(line % height) / (height / cells_high)) * cells_wide + column / (width / cells_wide); \
            if (mask[line / height * cells_high * cells_wide + cell] != 0) continue;                                   \
            Lanes<T, V>::store(x + row * channels + c, fill);                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        bias_##T##_##V(const T *x, Norm norm, const float *bias, i64 rows, int channels, T *y) {                       \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        const Affine<V> affine(norm, c);                                                                               \
        float b[V];                                                                                                    \
        load_channels<V>(bias + c, b);                                                                                 \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            float v[V];                                                                                                \
            Lanes<T, V>::load(x + row * channels + c, v);                                                              \
            affine.apply(v);                                                                                           \
            _Pragma("unroll") for (int i = 0; i < V; i++) v[i] += b[i];                                                \
            Lanes<T, V>::store(y + row * channels + c, v);                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    /* partial: [parts][C] */                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        column_sums_##T##_##V(const T *x, i64 rows, int channels, float *partial) {                                    \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        float sums[1][V] = {};                                                                                         \
        if (c < channels)                                                                                              \
            for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) { \
                float v[V];                                                                                            \
                Lanes<T, V>::load(x + row * channels + c, v);                                                          \
                _Pragma("unroll") for (int i = 0; i < V; i++) sums[0][i] += v[i];                                      \
            }                                                                                                          \
        reduce_rows<1, V>(sums, channels, partial + i64(blockIdx.y) * channels);                                       \
    }                                                                                                                  \
    /* y[b, c] = mean over the pixels of image b. A block takes one image and some channels. */                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        average_##T##_##V(const T *x, Norm norm, int pixels, int channels, float *y) {                                 \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        float sums[1][V] = {};                                                                                         \
        if (c < channels) {                                                                                            \
            const Affine<V> affine(norm, c);                                                                           \
            const T *image = x + i64(blockIdx.y) * pixels * channels + c;                                              \
            for (int pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {                                       \
                float v[V];                                                                                            \
                Lanes<T, V>::load(image + i64(pixel) * channels, v);                                                   \
                affine.apply(v);                                                                                       \
                _Pragma("unroll") for (int i = 0; i < V; i++) sums[0][i] += v[i];                                      \
            }                                                                                                          \
            const float share = 1.f / pixels;                                                                          \
            _Pragma("unroll") for (int i = 0; i < V; i++) sums[0][i] *= share;                                         \
        }                                                                                                              \
        reduce_rows<1, V>(sums, channels, y + i64(blockIdx.y) * channels);                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        average_backward_##T##_##V(const float *dy, int pixels, i64 rows, int channels, T *dx, int accumulate) {       \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        const float share = 1.f / pixels;                                                                              \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            float g[V], old[V] = {};                                                                                   \
            load_channels<V>(dy + row / pixels * channels + c, g);                                                     \
            T *to = dx + row * channels + c;                                                                           \
            if (accumulate) Lanes<T, V>::load(to, old);                                                                \
            _Pragma("unroll") for (int i = 0; i < V; i++) g[i] = fmaf(g[i], share, old[i]);                            \
            Lanes<T, V>::store(to, g);                                                                                 \
        }                                                                                                              \
    }                                                                                                                  \
    /* y = norm(x) * gate[b, c] */                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        scale_##T##_##V(const T *x, Norm norm, const float *gate, int pixels, i64 rows, int channels, T *y) {          \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        const Affine<V> affine(norm, c);                                                                               \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            float v[V], factor[V];                                                                                     \
            Lanes<T, V>::load(x + row * channels + c, v);                                                              \
            load_channels<V>(gate + row / pixels * channels + c, factor);                                              \
            affine.apply(v);                                                                                           \
            _Pragma("unroll") for (int i = 0; i < V; i++) v[i] *= factor[i];                                           \
            Lanes<T, V>::store(y + row * channels + c, v);                                                             \
        }                                                                                                              \
    }                                                                                                                  \
    /* dgate[b, c] = sum of dy * norm(x) over the pixels; dy *= gate[b, c]. A block takes one image and some channels. */ \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        scale_backward_##T##_##V(const T *x, Norm norm, const float *gate, int pixels, int channels, T *dy, float *dgate) { \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        float sums[1][V] = {};                                                                                         \
        if (c < channels) {                                                                                            \
            const Affine<V> affine(norm, c);                                                                           \
            float factor[V];                                                                                           \
            load_channels<V>(gate + i64(blockIdx.y) * channels + c, factor);                                           \
            const i64 image = i64(blockIdx.y) * pixels * channels + c;                                                 \
            for (int pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {                                       \
                float v[V], g[V];                                                                                      \
                const i64 at = image + i64(pixel) * channels;                                                          \
                Lanes<T, V>::load(x + at, v);                                                                          \
                Lanes<T, V>::load(dy + at, g);                                                                         \
                affine.apply(v);                                                                                       \
                _Pragma("unroll") for (int i = 0; i < V; i++) {                                                        \
                    sums[0][i] = fmaf(g[i], v[i], sums[0][i]);                                                         \
                    g[i] *= factor[i];                                                                                 \
                }                                                                                                      \
                Lanes<T, V>::store(dy + at, g);                                                                        \
            }                                                                                                          \
        }                                                                                                              \
        reduce_rows<1, V>(sums, channels, dgate + i64(blockIdx.y) * channels);                                         \
    }                                                                                                                  \
    /* Keeps element i if the i-th number of SplitMix64 from `base` is at least `threshold` (of 2^53), else 0. `group`: */ \
    /* elements that share a number: 1, or those of one image. */                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        dropout_##T##_##V(const T *x, Norm norm, u64 base, u64 threshold, float factor, i64 group, i64 rows, int channels, T *y) { \
        const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;                                                     \
        if (c >= channels) return;                                                                                     \
        const Affine<V> affine(norm, c);                                                                               \
        for (i64 row = i64(blockIdx.y) * blockDim.y + threadIdx.y; row < rows; row += i64(gridDim.y) * blockDim.y) {   \
            const i64 at = row * channels + c;                                                                         \
            float v[V];                                                                                                \
            Lanes<T, V>::load(x + at, v);                                                                              \
            affine.apply(v);                                                                                           \
            _Pragma("unroll") for (int i = 0; i < V; i++) {                                                            \
                u64 word = base + (u64((at + i) / group) + 1) * 0x9E3779B97F4A7C15ull;                                 \
                word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ull;                                                  \
                word = (word ^ (word >> 27)) * 0x94D049BB133111EBull;                                                  \
                word ^= word >> 31;                                                                                    \
                v[i] = (word >> 11) >= threshold ? v[i] * factor : 0.f;                                                \
            }                                                                                                          \
            Lanes<T, V>::store(y + at, v);                                                                             \
        }                                                                                                              \
    }
FOR_ALL(MAPS)

// out[c] (+)= sum of partial [parts][C], in an order that depends only on the shape.
extern "C" __global__ void sum_columns(const float *partial, int parts, int channels, float *out, int accumulate) {
    const int c = blockIdx.x * 32 + threadIdx.x;
    double sums[1];
    sum_parts<1>(partial, parts, channels, c, sums);
    if (threadIdx.y == 0 && c < channels) out[c] = accumulate ? out[c] + float(sums[0]) : float(sums[0]);
}
