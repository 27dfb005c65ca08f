// Depthwise convolution, NHWC, filters [C][K][K], K = 3 or 5, stride 1 or 2, no dilation. Padding: K / 2; at stride 2 also K / 2 - 1
// before the input and K / 2 after it.
//
// A thread takes a strip of COLUMNS neighboring outputs and moves down `run` rows of it for V channels. It loads and
// normalizes each input row once, and adds its contributions to a ring of partial sums, one for each output row in
// progress. The slots of the ring are known at compile time: the loop is unrolled over one turn of the ring. Filters
// are in registers.
#include "common.cuh"

// Columns of a strip: `COLUMNS` of train/cuda/src/depthwise.rs.
constexpr int COLUMNS = 4;
// Threads of a block: fewer than in other kernels, because each thread needs many registers.
constexpr int BLOCK = 128;

// A strip of an image, `run` rows of it: counted over strips first, then runs, then images.
struct Tile {
    int x, y;
    i64 image;
};
__device__ __forceinline__ Tile tile_at(u32 tile, u32 strips, u32 runs, int run) {
    const u32 line = tile / strips;
    const u32 image = line / runs;
    return {int(tile - line * strips) * COLUMNS, int(line - image * runs) * run, i64(image)};
}
__device__ __forceinline__ u32 ceil_div(int a, int b) { return (a + b - 1) / b; }

template <typename T, int V, int K> __device__ __forceinline__ void load_filters(const T *w, int c, bool flip, float (&filters)[K * K][V]) {
#pragma unroll
    for (int tap = 0; tap < K * K; tap++)
#pragma unroll
        for (int i = 0; i < V; i++) filters[tap][i] = to_float(w[i64(c + i) * K * K + (flip ? K * K - 1 - tap : tap)]);
}

// SPAN neighboring columns of a row from `x` on, zero outside of the row.
template <typename T, int V, int SPAN>
__device__ __forceinline__ void load_row(const T *row, bool inside, int x, int width, int channels, typename Lanes<T, V>::Raw (&raw)[SPAN]) {
#pragma unroll
    for (int j = 0; j < SPAN; j++) {
        raw[j] = typename Lanes<T, V>::Raw{};
        if (inside && x + j >= 0 && x + j < width) raw[j] = Lanes<T, V>::read(row + i64(x + j) * channels);
    }
}

template <typename T, int V>
__device__ __forceinline__ void store_strip(T *to, int x, int width, int channels, bool accumulate, float (&sums)[COLUMNS][V]) {
#pragma unroll
    for (int t = 0; t < COLUMNS; t++)
        if (x + t < width) {
            if (accumulate) {
                float old[V];
                Lanes<T, V>::load(to + i64(t) * channels, old);
#pragma unroll
                for (int i = 0; i < V; i++) sums[t][i] += old[i];
            }
            Lanes<T, V>::store(to + i64(t) * channels, sums[t]);
        }
}

// y = norm(x) * w. With `flip`, the filters are turned by 180 degrees: at stride 1 that is the gradient of the input.
template <typename T, int V, int K, int S>
__device__ void forward(const T *x, Norm norm, const T *w, Sliding s, int run, int flip, T *y, int accumulate) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= s.channels) return;
    const Affine<V> affine(norm, c);
    float filters[K * K][V];
    load_filters<T, V, K>(w, c, flip, filters);
    // Output row o (of the run) reads input rows o * S .. o * S + K - 1, and has slot o % SLOTS.
    constexpr int SLOTS = (K + S - 1) / S, TURN = SLOTS * S, SPAN = (COLUMNS - 1) * S + K;
    const u32 strips = ceil_div(s.out_width, COLUMNS), runs = ceil_div(s.out_height, run);
    const u32 tiles = u32(s.batch) * runs * strips;
    for (u32 number = blockIdx.y * blockDim.y + threadIdx.y; number < tiles; number += gridDim.y * blockDim.y) {
        const Tile tile = tile_at(number, strips, runs, run);
        const int count = min(run, s.out_height - tile.y);
        const int rows = (count - 1) * S + K, top = tile.y * S - s.padding, left = tile.x * S - s.padding;
        const T *from = x + (tile.image * s.height + top) * s.width * s.channels + c;
        T *to = y + ((tile.image * s.out_height + tile.y) * s.out_width + tile.x) * s.channels + c;
        float sums[SLOTS][COLUMNS][V] = {};
        for (int base = 0; base < rows; base += TURN) {
#pragma unroll
            for (int phase = 0; phase < TURN; phase++) {
                const int t = base + phase;
                if (t >= rows) break;
                const int iy = top + t;
                const bool inside = iy >= 0 && iy < s.height;
                typename Lanes<T, V>::Raw raw[SPAN];
                load_row<T, V, SPAN>(from + i64(t) * s.width * s.channels, inside, left, s.width, s.channels, raw);
                if (inside) {
#pragma unroll
                    for (int j = 0; j < SPAN; j++) {
                        if (left + j < 0 || left + j >= s.width) continue;
                        float v[V];
                        Lanes<T, V>::unpack(raw[j], v);
                        affine.apply(v);
#pragma unroll
                        for (int r = 0; r < K; r++) {
                            if ((phase - r + TURN) % S != 0) continue;
                            const int slot = (phase - r + TURN) / S % SLOTS;
#pragma unroll
                            for (int column = 0; column < COLUMNS; column++) {
                                const int q = j - column * S;
                                if (q < 0 || q >= K) continue;
#pragma unroll
                                for (int i = 0; i < V; i++)
                                    sums[slot][column][i] = fmaf(v[i], filters[r * K + q][i], sums[slot][column][i]);
                            }
                        }
                    }
                }
                // The output row for which this is the last tap is complete. Before the first output row there is none.
                if ((phase - (K - 1) + TURN * S) % S == 0) {
                    constexpr int BEFORE = K - 1;
                    const int slot = (phase - BEFORE + TURN * S) / S % SLOTS;
                    if (t >= BEFORE)
                        store_strip<T, V>(to + i64((t - BEFORE) / S) * s.out_width * s.channels, tile.x, s.out_width, s.channels,
                                          accumulate, sums[slot]);
#pragma unroll
                    for (int column = 0; column < COLUMNS; column++)
#pragma unroll
                        for (int i = 0; i < V; i++) sums[slot][column][i] = 0.f;
                }
            }
        }
    }
}

// The gradient of the input at stride 2. Row `oy` of dy belongs to input rows 2 * oy - P .. 2 * oy - P + K - 1.
template <typename T, int V, int K, int P>
__device__ void backward_input(const T *dy, const T *w, Sliding s, int run, T *dx, int accumulate) {
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (c >= s.channels) return;
    float filters[K * K][V];
    load_filters<T, V, K>(w, c, false, filters);
    constexpr int SLOTS = K + 1, TURN = SLOTS / 2;
    // Columns of dy under a strip that starts at an even column x, counted from x / 2.
    constexpr int FIRST = -((K - 1 - P) / 2), LAST = (COLUMNS - 1 + P) / 2, SPAN = LAST - FIRST + 1;
    // The run's first row (even), counted from the first input row that contributes to dy's first row.
    constexpr int SKIP = P + 2 * ((K - 1 - P) / 2);
    const u32 strips = ceil_div(s.width, COLUMNS), runs = ceil_div(s.height, run);
    const u32 tiles = u32(s.batch) * runs * strips;
    for (u32 number = blockIdx.y * blockDim.y + threadIdx.y; number < tiles; number += gridDim.y * blockDim.y) {
        const Tile tile = tile_at(number, strips, runs, run);
        const int count = min(run, s.height - tile.y);
        const int top = tile.y / 2 - (K - 1 - P) / 2, left = tile.x / 2 + FIRST;
        const int rows = (tile.y + count - 1 + P) / 2 - top + 1;
        const T *from = dy + (tile.image * s.out_height + top) * s.out_width * s.channels + c;
        T *to = dx + ((tile.image * s.height + tile.y) * s.width + tile.x) * s.channels + c;
        float sums[SLOTS][COLUMNS][V] = {};
        for (int base = 0; base < rows; base += TURN) {
#pragma unroll
            for (int phase = 0; phase < TURN; phase++) {
                const int t = base + phase;
                if (t >= rows) break;
                const bool inside = top + t >= 0 && top + t < s.out_height;
                typename Lanes<T, V>::Raw raw[SPAN];
                load_row<T, V, SPAN>(from + i64(t) * s.out_width * s.channels, inside, left, s.out_width, s.channels, raw);
#pragma unroll
                for (int j = 0; j < SPAN; j++) {
                    float v[V];
                    Lanes<T, V>::unpack(raw[j], v);
#pragma unroll
                    for (int r = 0; r < K; r++)
#pragma unroll
                        for (int column = 0; column < COLUMNS; column++) {
                            const int q = column + P - 2 * (j + FIRST);
                            if (q < 0 || q >= K) continue;
                            const int slot = (2 * phase + r) % SLOTS;
#pragma unroll
                            for (int i = 0; i < V; i++)
                                sums[slot][column][i] = fmaf(v[i], filters[r * K + q][i], sums[slot][column][i]);
                        }
                }
                // The first two input rows of this row of dy are complete.
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int row = 2 * t + r - SKIP, slot = (2 * phase + r) % SLOTS;
                    if (row >= 0 && row < count)
                        store_strip<T, V>(to + i64(row) * s.width * s.channels, tile.x, s.width, s.channels, accumulate, sums[slot]);
#pragma unroll
                    for (int column = 0; column < COLUMNS; column++)
#pragma unroll
                        for (int i = 0; i < V; i++) sums[slot][column][i] = 0.f;
                }
            }
        }
    }
}

// The gradient of the filters: like forward, with a ring of rows of dy instead of sums. partial: [parts][K * K][C].
template <typename T, int V, int K, int S>
__device__ void backward_filters(const T *x, Norm norm, const T *dy, Sliding s, int run, float *partial) {
    using Raw = typename Lanes<T, V>::Raw;
    const int c = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    float sums[K * K][V] = {};
    if (c < s.channels) {
        const Affine<V> affine(norm, c);
        constexpr int SLOTS = (K + S - 1) / S, TURN = SLOTS * S, SPAN = (COLUMNS - 1) * S + K;
        const u32 strips = ceil_div(s.out_width, COLUMNS), runs = ceil_div(s.out_height, run);
        const u32 tiles = u32(s.batch) * runs * strips;
        for (u32 number = blockIdx.y * blockDim.y + threadIdx.y; number < tiles; number += gridDim.y * blockDim.y) {
            const Tile tile = tile_at(number, strips, runs, run);
            const int count = min(run, s.out_height - tile.y);
            const int rows = (count - 1) * S + K, top = tile.y * S - s.padding, left = tile.x * S - s.padding;
            const T *from = x + (tile.image * s.height + top) * s.width * s.channels + c;
            const T *gradient = dy + ((tile.image * s.out_height + tile.y) * s.out_width) * s.channels + c;
            Raw ring[SLOTS][COLUMNS] = {};
            for (int base = 0; base < rows; base += TURN) {
#pragma unroll
                for (int phase = 0; phase < TURN; phase++) {
                    const int t = base + phase;
                    if (t >= rows) break;
                    if (phase % S == 0)
                        load_row<T, V, COLUMNS>(gradient + i64(t / S) * s.out_width * s.channels, t / S < count, tile.x,
                                                s.out_width, s.channels, ring[phase / S]);
                    const int iy = top + t;
                    if (iy < 0 || iy >= s.height) continue;
                    Raw raw[SPAN];
                    load_row<T, V, SPAN>(from + i64(t) * s.width * s.channels, true, left, s.width, s.channels, raw);
                    float v[SPAN][V];
#pragma unroll
                    for (int j = 0; j < SPAN; j++) {
                        Lanes<T, V>::unpack(raw[j], v[j]);
                        // Padding stays zero.
                        if (left + j >= 0 && left + j < s.width) affine.apply(v[j]);
                    }
#pragma unroll
                    for (int r = 0; r < K; r++) {
                        if ((phase - r + TURN) % S != 0) continue;
#pragma unroll
                        for (int column = 0; column < COLUMNS; column++) {
                            float g[V];
                            Lanes<T, V>::unpack(ring[(phase - r + TURN) / S % SLOTS][column], g);
#pragma unroll
                            for (int q = 0; q < K; q++)
#pragma unroll
                                for (int i = 0; i < V; i++)
                                    sums[r * K + q][i] = fmaf(g[i], v[column * S + q][i], sums[r * K + q][i]);
                        }
                    }
                }
            }
        }
    }
    for (int tap = 0; tap < K * K; tap++) {
        float one[1][V] = {};
#pragma unroll
        for (int t = 0; t < K * K; t++)
            if (t == tap)
#pragma unroll
                for (int i = 0; i < V; i++) one[0][i] = sums[t][i];
        __syncthreads();
        reduce_rows<1, V>(one, s.channels, partial + (i64(blockIdx.y) * K * K + tap) * s.channels);
    }
}

// dw[c][tap] (+)= sum of partial [parts][taps][C], in an order that depends only on the shape.
extern "C" __global__ void depthwise_finish(const float *partial, int parts, int taps, int channels, float *dw, int accumulate) {
    const int at = blockIdx.x * 32 + threadIdx.x;
    double sums[1];
    sum_parts<1>(partial, parts, taps * channels, at, sums);
    if (threadIdx.y != 0 || at >= taps * channels) return;
    float *to = dw + i64(at % channels) * taps + at / channels;
    *to = accumulate ? *to + float(sums[0]) : float(sums[0]);
}

#define PASSES(T, V, K, S)                                                                                             \
    extern "C" __global__ void __launch_bounds__(BLOCK) depthwise_forward_##K##_##S##_##T##_##V(                     \
        const T *x, Norm norm, const T *w, Sliding s, int run, int flip, T *y, int accumulate) {                       \
        forward<T, V, K, S>(x, norm, w, s, run, flip, y, accumulate);                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) depthwise_backward_filters_##K##_##S##_##T##_##V(            \
        const T *x, Norm norm, const T *dy, Sliding s, int run, float *partial) {                                      \
        backward_filters<T, V, K, S>(x, norm, dy, s, run, partial);                                                    \
    }
#define BACKWARD_INPUT(T, V, K, P)                                                                                     \
    extern "C" __global__ void __launch_bounds__(BLOCK) depthwise_backward_input_##K##_##P##_##T##_##V(              \
        const T *dy, const T *w, Sliding s, int run, T *dx, int accumulate) {                                          \
        backward_input<T, V, K, P>(dy, w, s, run, dx, accumulate);                                                     \
    }
// All values of a thread are in registers: more taps leave room for fewer channels. HALF and LESS: the two paddings.
#define KERNELS(T, V, K, HALF, LESS)                                                                                   \
    PASSES(T, V, K, 1) PASSES(T, V, K, 2) BACKWARD_INPUT(T, V, K, HALF) BACKWARD_INPUT(T, V, K, LESS)
#define BOTH(T) KERNELS(T, 4, 3, 1, 0) KERNELS(T, 1, 3, 1, 0) KERNELS(T, 2, 5, 2, 1) KERNELS(T, 1, 5, 2, 1)
BOTH(f32) BOTH(f16) BOTH(bf16)
