// One launch updates all parameters, which are one flat vector of f32. A table splits the vector into chunks that each
// belong to one tensor; a block takes one chunk. The same pass writes the copy of the weights that the layers read.
#include "common.cuh"

struct Chunk {
    u32 start, len, tensor, unused;
};

// Per tensor: weight decay, and whether LARS adapts its learning rate.
struct Tensor {
    float decay;
    u32 adapted;
};

template <typename T> __device__ __forceinline__ void store4(T *at, float4 v) {
    const float four[4] = {v.x, v.y, v.z, v.w};
    Lanes<T, 4>::store(at, four);
}

// Calls f(index) for each group of four values of the chunk. Chunks start at multiples of 4, and gaps between tensors
// may be written, so the last group is not a special case.
template <typename F> __device__ __forceinline__ void for_fours(const Chunk &chunk, F f) {
    for (u32 i = threadIdx.x * 4; i < chunk.len; i += THREADS * 4) f(i64(chunk.start) + i);
}

// The factor of every gradient is control[0], or 1 if `control` is null. A step whose control[1] is not 0 is skipped.
__device__ __forceinline__ bool skipped(const float *control) { return control != nullptr && control[1] != 0.f; }
__device__ __forceinline__ float factor_of(const float *control) { return control == nullptr ? 1.f : control[0]; }

template <typename F> __device__ __forceinline__ float4 each(F f) {
    return make_float4(f(0), f(1), f(2), f(3));
}
__device__ __forceinline__ float lane(const float4 &v, int i) { return i == 0 ? v.x : (i == 1 ? v.y : (i == 2 ? v.z : v.w)); }
__device__ __forceinline__ float4 read4(const float *p, i64 at) { return *reinterpret_cast<const float4 *>(p + at); }
__device__ __forceinline__ void write4(float *p, i64 at, float4 v) { *reinterpret_cast<float4 *>(p + at) = v; }

// v = momentum * v + trust * (g + w p); p -= rate * (nesterov ? trust * (g + w p) + momentum * v : v).
// `trusts` (one per tensor, LARS) may be null.
template <typename T>
__device__ void sgd(const Chunk *chunks, const Tensor *tensors, const float *trusts, float rate, float momentum, int nesterov,
                    const float *control, const float *g, float *p, float *velocity, T *copy) {
    if (skipped(control)) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Tensor tensor = tensors[chunk.tensor];
    const float trust = trusts == nullptr ? 1.f : trusts[chunk.tensor];
    const float by = factor_of(control);
    for_fours(chunk, [&](i64 at) {
        const float4 old = read4(p, at), grad = read4(g, at), speed = read4(velocity, at);
        const float4 d = each([&](int i) { return trust * fmaf(tensor.decay, lane(old, i), by * lane(grad, i)); });
        const float4 v = each([&](int i) { return fmaf(momentum, lane(speed, i), lane(d, i)); });
        const float4 next = each([&](int i) {
            const float move = nesterov ? fmaf(momentum, lane(v, i), lane(d, i)) : lane(v, i);
            return fmaf(-rate, move, lane(old, i));
        });
        write4(velocity, at, v);
        write4(p, at, next);
        if (copy != nullptr) store4<T>(copy + at, next);
    });
}

// Decoupled weight decay; `size` = rate / (1 - beta1^t), `root` = 1 / sqrt(1 - beta2^t).
template <typename T>
__device__ void adamw(const Chunk *chunks, const Tensor *tensors, float rate, float beta1, float beta2, float eps, float size,
                      float root, const float *control, const float *g, float *p, float *first, float *second, T *copy) {
    if (skipped(control)) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Tensor tensor = tensors[chunk.tensor];
    const float by = factor_of(control);
    for_fours(chunk, [&](i64 at) {
        const float4 old = read4(p, at), grad = read4(g, at), m0 = read4(first, at), s0 = read4(second, at);
        const float4 d = each([&](int i) { return by * lane(grad, i); });
        const float4 m = each([&](int i) { return fmaf(beta1, lane(m0, i), (1.f - beta1) * lane(d, i)); });
        const float4 s = each([&](int i) { return fmaf(beta2, lane(s0, i), (1.f - beta2) * lane(d, i) * lane(d, i)); });
        const float4 next = each([&](int i) {
            const float kept = lane(old, i) * (1.f - rate * tensor.decay);
            return kept - size * lane(m, i) / fmaf(sqrtf(lane(s, i)), root, eps);
        });
        write4(first, at, m);
        write4(second, at, s);
        write4(p, at, next);
        if (copy != nullptr) store4<T>(copy + at, next);
    });
}

#define STEPS(T)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        sgd_##T##_1(const Chunk *chunks, const Tensor *tensors, const float *trusts, float rate, float momentum,       \
                    int nesterov, const float *control, const float *g, float *p, float *velocity, T *copy) {          \
        sgd<T>(chunks, tensors, trusts, rate, momentum, nesterov, control, g, p, velocity, copy);                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        adamw_##T##_1(const Chunk *chunks, const Tensor *tensors, float rate, float beta1, float beta2, float eps,     \
                      float size, float root, const float *control, const float *g, float *p,                          \
                      float *first, float *second, T *copy) {                                                          \
        adamw<T>(chunks, tensors, rate, beta1, beta2, eps, size, root, control, g, p, first, second, copy); \
    }
STEPS(f32) STEPS(f16) STEPS(bf16)

// Returns the sum over a block to thread 0. The sum is a tree of fixed shape.
__device__ __forceinline__ double block_total(double value) {
    __shared__ double shared[THREADS];
    __syncthreads();
    shared[threadIdx.x] = value;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

// partial[chunk] = sum of squares. Gaps must hold zeros.
extern "C" __global__ void __launch_bounds__(THREADS) square_sums(const Chunk *chunks, const float *x, double *partial) {
    const Chunk chunk = chunks[blockIdx.x];
    double sum = 0.;
    for_fours(chunk, [&](i64 at) {
        const float4 v = read4(x, at);
        sum += double(v.x) * v.x + double(v.y) * v.y + double(v.z) * v.z + double(v.w) * v.w;
    });
    sum = block_total(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// control = (factor of every gradient, whether the step is skipped). The factor limits the norm to `max_norm`; the step
// is skipped if the norm is not finite. norm[0] = the norm before clipping.
extern "C" __global__ void __launch_bounds__(THREADS)
    clip(const double *partial, int chunks, float max_norm, float *control, float *norm) {
    double sum = 0.;
    for (int i = threadIdx.x; i < chunks; i += THREADS) sum += partial[i];
    sum = block_total(sum);
    if (threadIdx.x != 0) return;
    const double size = sqrt(sum);
    // torch.nn.utils.clip_grad_norm_ adds the same small number.
    const double shorten = max_norm / (size + 1e-6);
    norm[0] = size;
    control[0] = shorten < 1. ? shorten : 1.;
    control[1] = isfinite(size) ? 0.f : 1.f;
}

// LARS: trusts[t] = coefficient * |p| / (|g| + decay * |p|) for adapted tensors whose norms are both positive, else 1.
// `first`: [tensors + 1], the first chunk of each tensor. One thread for each tensor.
extern "C" __global__ void trust_ratios(const Tensor *tensors, const u32 *first, int count, const double *of_p, const double *of_g,
                                        float coefficient, const float *control, float *trusts) {
    const int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= count) return;
    double p = 0., g = 0.;
    for (u32 chunk = first[t]; chunk < first[t + 1]; chunk++) p += of_p[chunk], g += of_g[chunk];
    p = sqrt(p);
    g = sqrt(g) * factor_of(control);
    trusts[t] = tensors[t].adapted != 0 && p > 0. && g > 0. ? float(coefficient * p / (g + tensors[t].decay * p)) : 1.f;
}

// average += (1 - decay) * (p - average); `len` is a multiple of 4.
extern "C" __global__ void __launch_bounds__(THREADS) ema(float share, const float *p, i64 len, float *average) {
    for (i64 at = (i64(blockIdx.x) * THREADS + threadIdx.x) * 4; at < len; at += i64(gridDim.x) * THREADS * 4) {
        const float4 value = read4(p, at), old = read4(average, at);
        write4(average, at, each([&](int i) { return fmaf(share, lane(value, i) - lane(old, i), lane(old, i)); }));
    }
}
