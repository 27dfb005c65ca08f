// CUDA's language for the host's compiler, included before a .cu file. The toolkit's own headers provide types and
// rounding.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <vector_functions.h>

#include "../device/kernels.h"

// Defined after the toolkit's headers above, so that they take the host's code path.
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#undef __constant__
#undef __device__
#undef __forceinline__
#undef __global__
#undef __host__
#undef __launch_bounds__
#undef __noinline__
#undef __shared__
#define __constant__ static
#define __device__
#define __forceinline__ inline
#define __host__
#define __launch_bounds__(...)
#define __noinline__
#define __restrict__
// Kernel libraries have no other thread-local variables (device/shared_memory.h).
#define __shared__ static thread_local
// The builder preprocesses each file once with SOFTGPU_LIST_KERNELS to find the names of its kernels.
#ifdef SOFTGPU_LIST_KERNELS
#define __global__ SOFTGPU_KERNEL
#else
#define __global__
#endif

#define threadIdx softgpu_thread
#define blockIdx softgpu_block
#define blockDim softgpu_block_dim
#define gridDim softgpu_grid_dim
#define warpSize 32
#define __syncthreads softgpu_barrier

// ---- warps ----------------------------------------------------------------------------------------------------------

template <typename To, typename From> inline To softgpu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "the same bytes");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

template <typename T> inline T softgpu_shuffle(unsigned mask, T value, int from_lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "one word");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = softgpu_exchange(word, mask, from_lane);
    memcpy(&value, &word, sizeof value);
    return value;
}
// A lane that reads from outside the warp gets its own value.
template <typename T> inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int = 32) {
    const int lane = softgpu_lane(), from = lane + int(delta);
    return softgpu_shuffle(mask, value, from < 32 ? from : lane);
}
template <typename T> inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int = 32) {
    const int lane = softgpu_lane(), from = lane - int(delta);
    return softgpu_shuffle(mask, value, from >= 0 ? from : lane);
}
template <typename T> inline T __shfl_xor_sync(unsigned mask, T value, int with, int = 32) {
    return softgpu_shuffle(mask, value, (softgpu_lane() ^ with) & 31);
}
template <typename T> inline T __shfl_sync(unsigned mask, T value, int from, int = 32) {
    return softgpu_shuffle(mask, value, from & 31);
}

// ---- atomics: one thread runs at a time ------------------------------------------------------------------------------

template <typename T, typename Change> inline T softgpu_atomic(T *at, Change change) {
    const T old = *at;
    *at = change(old);
    return old;
}
template <typename T, typename U> inline T atomicAdd(T *at, U value) {
    return softgpu_atomic(at, [=](T old) { return T(old + T(value)); });
}
template <typename T, typename U> inline T atomicMax(T *at, U value) {
    return softgpu_atomic(at, [=](T old) { return old < T(value) ? T(value) : old; });
}
template <typename T, typename U> inline T atomicMin(T *at, U value) {
    return softgpu_atomic(at, [=](T old) { return T(value) < old ? T(value) : old; });
}
template <typename T> inline T atomicCAS(T *at, T expected, T value) {
    return softgpu_atomic(at, [=](T old) { return old == expected ? value : old; });
}

// ---- functions of the device ------------------------------------------------------------------------------------------

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif
using std::isfinite, std::isinf, std::isnan, std::signbit;

#define __expf expf
#define __logf logf
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline double rsqrt(double x) { return 1. / sqrt(x); }
inline float normcdff(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(x * -0.70710678118654752); }
// For floats: if one argument is a NaN, the result is the other one.
template <typename A, typename B, typename C = std::common_type_t<A, B>> inline C min(A a, B b) {
    if constexpr (std::is_floating_point_v<C>) return std::fmin(C(a), C(b));
    else return C(b) < C(a) ? C(b) : C(a);
}
template <typename A, typename B, typename C = std::common_type_t<A, B>> inline C max(A a, B b) {
    if constexpr (std::is_floating_point_v<C>) return std::fmax(C(a), C(b));
    else return C(a) < C(b) ? C(b) : C(a);
}
inline int __float_as_int(float x) { return softgpu_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return softgpu_bits<unsigned>(x); }
inline float __int_as_float(int x) { return softgpu_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return softgpu_bits<float>(x); }
inline long long __double_as_longlong(double x) { return softgpu_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return softgpu_bits<double>(x); }

#define SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, NAME, FUNCTION) \
    inline T NAME(T x) { return ROUND(FUNCTION(WIDEN(x))); }
#define SOFTGPU_HALF_FUNCTIONS(T, WIDEN, ROUND)              \
    SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, hexp, expf)       \
    SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, hlog, logf)       \
    SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, hsqrt, sqrtf)     \
    SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, hsin, sinf)       \
    SOFTGPU_HALF_FUNCTION(T, WIDEN, ROUND, hcos, cosf)
SOFTGPU_HALF_FUNCTIONS(__half, __half2float, __float2half_rn)
SOFTGPU_HALF_FUNCTIONS(__nv_bfloat16, __bfloat162float, __float2bfloat16_rn)

// ---- registration -----------------------------------------------------------------------------------------------------

namespace softgpu {

static thread_local char shared_memory_anchor;
inline void touch_shared_memory() { *const_cast<volatile char *>(&shared_memory_anchor) = 0; }

// Calls a kernel with the parameters in the driver's list.
template <auto BODY> struct Caller;
template <typename... Parameter, void (*BODY)(Parameter...)> struct Caller<BODY> {
    static constexpr uint32_t bytes[] = {sizeof(Parameter)..., 0};

    template <size_t... I> static void call(void **parameters, std::index_sequence<I...>) {
        BODY(*static_cast<std::remove_const_t<Parameter> *>(parameters[I])...);
    }
    static void run_thread(void **parameters) { call(parameters, std::index_sequence_for<Parameter...>{}); }

    static Kernel kernel(const char *name) {
        return {name, run_thread, bytes, uint32_t(sizeof...(Parameter)), SOFTGPU_NULL_TERMINATED, touch_shared_memory};
    }
};

}  // namespace softgpu
#define SOFTGPU_REGISTER(NAME) softgpu::register_kernel(softgpu::Caller<&NAME>::kernel(#NAME));
