// Rows of f32 matrices [B, K]: L2 normalization and soft cross-entropy. One block for each row.
#include "common.cuh"

constexpr float MIN_NORM = 1e-12f;

// The sum over the block's threads, in a fixed order. All threads get the result.
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float warps[THREADS / 32];
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.f;
    for (int warp = 0; warp < THREADS / 32; warp++) sum += warps[warp];
    return sum;
}

__device__ __forceinline__ float block_max(float value) {
    __shared__ float warps[THREADS / 32];
    for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, __shfl_down_sync(0xffffffffu, value, offset));
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float max = -INFINITY;
    for (int warp = 0; warp < THREADS / 32; warp++) max = fmaxf(max, warps[warp]);
    return max;
}

extern "C" __global__ void __launch_bounds__(THREADS) l2_normalize(const float *x, int columns, float *y) {
    const i64 row = i64(blockIdx.x) * columns;
    float sum = 0.f;
    for (int k = threadIdx.x; k < columns; k += THREADS) sum = fmaf(x[row + k], x[row + k], sum);
    const float scale = 1.f / fmaxf(sqrtf(block_sum(sum)), MIN_NORM);
    for (int k = threadIdx.x; k < columns; k += THREADS) y[row + k] = x[row + k] * scale;
}

// dy becomes (dy - y (y . dy)) / |x|, without the projection if the norm was clipped.
extern "C" __global__ void __launch_bounds__(THREADS) l2_normalize_backward(const float *x, int columns, float *dy) {
    const i64 row = i64(blockIdx.x) * columns;
    float sum = 0.f, dot = 0.f;
    for (int k = threadIdx.x; k < columns; k += THREADS) {
        sum = fmaf(x[row + k], x[row + k], sum);
        dot = fmaf(x[row + k], dy[row + k], dot);
    }
    const float norm = sqrtf(block_sum(sum));
    dot = block_sum(dot);
    const float scale = 1.f / fmaxf(norm, MIN_NORM);
    const float along = norm < MIN_NORM ? 0.f : dot * scale * scale;
    for (int k = threadIdx.x; k < columns; k += THREADS) dy[row + k] = (dy[row + k] - x[row + k] * along) * scale;
}

// Cross-entropy of softmax(logits) over the active columns against a target distribution, and its gradient.
// losses[b] = -sum_k p log_softmax; dlogits = share * (softmax * sum_k p - p), 0 in inactive columns.
// Dense targets: `probabilities` [B, K]; `indices` null. Sparse: `indices` and `probabilities` [B, top]. `active` may be null.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy(const float *logits, const u32 *indices, const float *probabilities, int top, const u8 *active, int columns,
                  float share, float *losses, float *dlogits) {
    const i64 row = i64(blockIdx.x) * columns;
    auto on = [&](int k) { return active == nullptr || active[k] != 0; };
    float max = -INFINITY;
    for (int k = threadIdx.x; k < columns; k += THREADS)
        if (on(k)) max = fmaxf(max, logits[row + k]);
    max = block_max(max);
    float sum = 0.f;
    for (int k = threadIdx.x; k < columns; k += THREADS)
        if (on(k)) sum += expf(logits[row + k] - max);
    sum = block_sum(sum);
    const float log_sum = logf(sum);
    float loss = 0.f, mass = 0.f;
    auto count = [&](int k, float p) {
        loss -= p * (logits[row + k] - max - log_sum);
        mass += p;
    };
    const i64 targets = i64(blockIdx.x) * top;
    if (indices == nullptr) {
        for (int k = threadIdx.x; k < columns; k += THREADS)
            if (on(k)) count(k, probabilities[row + k]);
    } else {
        for (int j = threadIdx.x; j < top; j += THREADS)
            if (const u32 k = indices[targets + j]; k < u32(columns) && on(k)) count(k, probabilities[targets + j]);
    }
    loss = block_sum(loss);
    mass = block_sum(mass);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
    for (int k = threadIdx.x; k < columns; k += THREADS) {
        const float p = indices == nullptr ? probabilities[row + k] : 0.f;
        dlogits[row + k] = on(k) ? share * (expf(logits[row + k] - max) / sum * mass - p) : 0.f;
    }
    if (indices == nullptr) return;
    __syncthreads();
    // Indices of one row are distinct, so each element has one writer.
    for (int j = threadIdx.x; j < top; j += THREADS)
        if (const u32 k = indices[targets + j]; k < u32(columns) && on(k)) dlogits[row + k] -= share * probabilities[targets + j];
}

// out[0] = factor * sum of values, computed by one block in a fixed order.
extern "C" __global__ void __launch_bounds__(THREADS) sum_all(const float *values, i64 len, float factor, float *out) {
    __shared__ double shared[THREADS];
    double sum = 0.;
    for (i64 at = threadIdx.x; at < len; at += THREADS) sum += values[at];
    shared[threadIdx.x] = sum;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[0] = float(shared[0] * factor);
}
