// Definitions that all kernels share: element types, vector access, activations, geometry.
//
// Activations are NHWC. A thread processes `V` neighboring channels at a time: 16 bytes, or one element if the number
// of channels or an address does not allow that. Arithmetic is f32 for every element type.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;
using f32 = float;
using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;

// Threads of a block that iterates over rows; the size of shared-memory arrays depends on it
// (train/cuda/src/launch.rs).
constexpr int THREADS = 256;

__device__ __forceinline__ float to_float(f32 v) { return v; }
__device__ __forceinline__ float to_float(f16 v) { return __half2float(v); }
__device__ __forceinline__ float to_float(bf16 v) { return __bfloat162float(v); }
__device__ __forceinline__ float to_float(u8 v) { return static_cast<float>(v); }
template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ f32 from_float<f32>(float v) { return v; }
template <> __device__ __forceinline__ f16 from_float<f16>(float v) { return __float2half_rn(v); }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float v) { return __float2bfloat16_rn(v); }

// `V` elements as they are in memory.
template <int BYTES> struct Bytes;
template <> struct Bytes<16> { using Type = uint4; };
template <> struct Bytes<8> { using Type = uint2; };
template <> struct Bytes<4> { using Type = u32; };
template <> struct Bytes<2> { using Type = unsigned short; };
template <> struct Bytes<1> { using Type = u8; };

template <typename T, int V> struct Lanes {
    using Raw = typename Bytes<sizeof(T) * V>::Type;

    __device__ static __forceinline__ Raw read(const T *at) { return *reinterpret_cast<const Raw *>(at); }

    __device__ static __forceinline__ void unpack(const Raw &raw, float (&v)[V]) {
        const T *element = reinterpret_cast<const T *>(&raw);
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = to_float(element[i]);
    }

    __device__ static __forceinline__ void load(const T *at, float (&v)[V]) { unpack(read(at), v); }

    __device__ static __forceinline__ void store(T *at, const float (&v)[V]) {
        Raw raw;
        T *element = reinterpret_cast<T *>(&raw);
#pragma unroll
        for (int i = 0; i < V; i++) element[i] = from_float<T>(v[i]);
        *reinterpret_cast<Raw *>(at) = raw;
    }
};

// Per-channel f32 values: 16-byte loads if V allows (the arrays are aligned and C is a multiple of V).
template <int V> __device__ __forceinline__ void load_channels(const float *at, float (&v)[V]) {
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float4 four = *reinterpret_cast<const float4 *>(at + i);
            v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = at[i];
    }
}

// In the order of lgd_kernels::Activation.
enum Activation { IDENTITY, RELU, RELU6, HARD_SWISH, HARD_SIGMOID, SILU, SIGMOID };

// Clamps that keep a NaN.
__device__ __forceinline__ float at_least_0(float x) { return x < 0.f ? 0.f : x; }
__device__ __forceinline__ float relu6(float x) { return x < 0.f ? 0.f : (x > 6.f ? 6.f : x); }
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

template <int V> __device__ __forceinline__ void activate(int activation, float (&v)[V]) {
    // The switch is outside the loops: one uniform branch for V values.
    switch (activation) {
    case RELU:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = at_least_0(v[i]);
        break;
    case RELU6:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = relu6(v[i]);
        break;
    case HARD_SWISH:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = v[i] * relu6(v[i] + 3.f) * (1.f / 6.f);
        break;
    case HARD_SIGMOID:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = relu6(v[i] + 3.f) * (1.f / 6.f);
        break;
    case SILU:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = v[i] * sigmoid(v[i]);
        break;
    case SIGMOID:
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = sigmoid(v[i]);
        break;
    default: break;
    }
}

// g *= activation'(u), with PyTorch's values at the kinks.
template <int V> __device__ __forceinline__ void activate_backward(int activation, const float (&u)[V], float (&g)[V]) {
    switch (activation) {
    case RELU:
#pragma unroll
        for (int i = 0; i < V; i++) g[i] = u[i] <= 0.f ? 0.f : g[i];
        break;
    case RELU6:
#pragma unroll
        for (int i = 0; i < V; i++) g[i] = u[i] <= 0.f || u[i] >= 6.f ? 0.f : g[i];
        break;
    case HARD_SWISH:
#pragma unroll
        for (int i = 0; i < V; i++)
            g[i] *= u[i] <= -3.f ? 0.f : (u[i] >= 3.f ? 1.f : u[i] * (1.f / 3.f) + 0.5f);
        break;
    case HARD_SIGMOID:
#pragma unroll
        for (int i = 0; i < V; i++) g[i] = u[i] <= -3.f || u[i] >= 3.f ? 0.f : g[i] * (1.f / 6.f);
        break;
    case SILU:
#pragma unroll
        for (int i = 0; i < V; i++) {
            float s = sigmoid(u[i]);
            g[i] *= s * (1.f + u[i] * (1.f - s));
        }
        break;
    case SIGMOID:
#pragma unroll
        for (int i = 0; i < V; i++) {
            float s = sigmoid(u[i]);
            g[i] *= s * (1.f - s);
        }
        break;
    default: break;
    }
}

// A pending normalization: activation(x * scale + shift), or x itself if `scale` is null.
struct Norm {
    const float *scale;
    const float *shift;
    int activation;
};

// The part of a normalization for a thread's channels.
template <int V> struct Affine {
    float scale[V], shift[V];
    int activation;
    bool present;

    __device__ __forceinline__ Affine(const Norm &norm, int channel) : activation(norm.activation), present(norm.scale != nullptr) {
        if (present) {
            load_channels<V>(norm.scale + channel, scale);
            load_channels<V>(norm.shift + channel, shift);
        }
    }

    __device__ __forceinline__ void apply(float (&v)[V]) const {
        if (present) {
#pragma unroll
            for (int i = 0; i < V; i++) v[i] = fmaf(v[i], scale[i], shift[i]);
            activate<V>(activation, v);
        }
    }
};

// lgd_kernels::Sliding, field by field.
struct Sliding {
    int batch, height, width, channels, kernel_height, kernel_width, stride, padding, dilation, out_height, out_width;
};

// Sums `N` groups of V channels over the rows of threads of a block, in order, and writes them to out[n * channels +
// c].
template <int N, int V>
__device__ __forceinline__ void reduce_rows(const float (&values)[N][V], int channels, float *out) {
    __shared__ float shared[N * THREADS * V];
    const int width = blockDim.x * V;
    const int area = blockDim.y * width;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < V; i++) shared[n * area + threadIdx.y * width + threadIdx.x * V + i] = values[n][i];
    __syncthreads();
    const int first = blockIdx.x * width;
    for (int at = threadIdx.y * blockDim.x + threadIdx.x; at < N * width; at += blockDim.x * blockDim.y) {
        const int n = at / width, j = at % width;
        if (first + j >= channels) continue;
        float sum = 0.f;
        for (int y = 0; y < blockDim.y; y++) sum += shared[n * area + y * width + j];
        out[i64(n) * channels + first + j] = sum;
    }
}

// Sums over partial [parts][N][C] for channel `c`, in f64, in an order that depends only on the shape. All threads of a
// block (32 channels x 8) must call it; those with threadIdx.y == 0 get the result.
template <int N> __device__ __forceinline__ void sum_parts(const float *partial, int parts, int channels, int c, double (&sums)[N]) {
    __shared__ double shared[N][8][32];
#pragma unroll
    for (int n = 0; n < N; n++) sums[n] = 0.;
    if (c < channels)
        for (int part = threadIdx.y; part < parts; part += 8)
#pragma unroll
            for (int n = 0; n < N; n++) sums[n] += partial[(i64(part) * N + n) * channels + c];
#pragma unroll
    for (int n = 0; n < N; n++) shared[n][threadIdx.y][threadIdx.x] = sums[n];
    __syncthreads();
    if (threadIdx.y == 0)
#pragma unroll
        for (int n = 0; n < N; n++)
            for (int y = 1; y < 8; y++) sums[n] += shared[n][y][threadIdx.x];
}

// Instantiates a macro of (element, elements at a time) for every combination.
#define FOR_ALL(M) M(f32, 4) M(f32, 1) M(f16, 8) M(f16, 1) M(bf16, 8) M(bf16, 1)
