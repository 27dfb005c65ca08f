// Where the gradient of a batch normalization's output comes from.
#pragma once

#include "common.cuh"

// The gradient of a normalization's output, in one of three forms. Dense: a tensor.
template <typename T, int V> struct Dense {
    const T *dy;
    using Raw = typename Lanes<T, V>::Raw;
    __device__ __forceinline__ Raw read(i64 row, int channels, int c) const { return Lanes<T, V>::read(dy + row * channels + c); }
    __device__ __forceinline__ void unpack(const Raw &raw, i64, int, int, float (&g)[V]) const { Lanes<T, V>::unpack(raw, g); }
};

// Pooled: the gradient of a max-pool after the normalization.
template <typename T, int V> struct Pooled {
    const T *dy;
    const u8 *taken;
    Sliding s;
    struct Raw {};
    __device__ __forceinline__ Raw read(i64, int, int) const { return {}; }
    __device__ __forceinline__ void unpack(const Raw &, i64 row, int channels, int c, float (&g)[V]) const {
        gather(row, channels, c, g);
    }
    __device__ __forceinline__ void gather(i64 row, int channels, int c, float (&g)[V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) g[i] = 0.f;
        // The rows of one launch fit an unsigned integer (the caller checks it), and its division is cheaper.
        const u32 at = u32(row);
        const u32 line = at / u32(s.width);
        const int x = at - line * s.width;
        const u32 image = line / u32(s.height);
        const int y = line - image * s.height;
        const int last_y = min((y + s.padding) / s.stride, s.out_height - 1);
        const int last_x = min((x + s.padding) / s.stride, s.out_width - 1);
        const int first_y = max((y + s.padding - s.kernel_height + s.stride) / s.stride, 0);
        const int first_x = max((x + s.padding - s.kernel_width + s.stride) / s.stride, 0);
        for (int oy = first_y; oy <= last_y; oy++)
            for (int ox = first_x; ox <= last_x; ox++) {
                const int tap = (y + s.padding - oy * s.stride) * s.kernel_width + (x + s.padding - ox * s.stride);
                const i64 from = ((i64(image) * s.out_height + oy) * s.out_width + ox) * channels + c;
                const auto raw = Lanes<u8, V>::read(taken + from);
                const u8 *taps = reinterpret_cast<const u8 *>(&raw);
                float d[V];
                Lanes<T, V>::load(dy + from, d);
#pragma unroll
                for (int i = 0; i < V; i++)
                    if (taps[i] == tap) g[i] += d[i];
            }
    }
};

// Averaged: the gradient of a global average after the normalization, [B, C].
template <typename T, int V> struct Averaged {
    const float *dy;
    int pixels;
    struct Raw {};
    __device__ __forceinline__ Raw read(i64, int, int) const { return {}; }
    __device__ __forceinline__ void unpack(const Raw &, i64 row, int channels, int c, float (&g)[V]) const {
        load_channels<V>(dy + i64(u32(row) / u32(pixels)) * channels + c, g);
        const float share = 1.f / pixels;
#pragma unroll
        for (int i = 0; i < V; i++) g[i] *= share;
    }
};
