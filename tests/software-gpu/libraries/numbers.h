// Numbers in the device's memory, read and written as f32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <vector>

namespace softgpu {

enum class Type { F16, BF16, F32, F64 };

inline size_t size_of(Type type) {
    switch (type) {
    case Type::F16:
    case Type::BF16: return 2;
    case Type::F32: return 4;
    case Type::F64: return 8;
    }
    return 0;
}

inline float read_number(const void *data, Type type, size_t at) {
    switch (type) {
    case Type::F16: return __half2float(static_cast<const __half *>(data)[at]);
    case Type::BF16: return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[at]);
    case Type::F32: return static_cast<const float *>(data)[at];
    case Type::F64: return float(static_cast<const double *>(data)[at]);
    }
    return 0;
}

inline void write_number(void *data, Type type, size_t at, float value) {
    switch (type) {
    case Type::F16: static_cast<__half *>(data)[at] = __float2half_rn(value); break;
    case Type::BF16: static_cast<__nv_bfloat16 *>(data)[at] = __float2bfloat16_rn(value); break;
    case Type::F32: static_cast<float *>(data)[at] = value; break;
    case Type::F64: static_cast<double *>(data)[at] = double(value); break;
    }
}

template <typename To> std::vector<To> read_numbers(const void *data, Type type, size_t count) {
    std::vector<To> values(count);
    for (size_t i = 0; i < count; i++) values[i] = To(read_number(data, type, i));
    return values;
}

// alpha * value, plus beta times the stored number. If beta is 0, the stored number is not read, because it may be a
// NaN.
inline void blend_number(void *data, Type type, size_t at, float alpha, float value, float beta) {
    const float kept = beta == 0.f ? 0.f : beta * read_number(data, type, at);
    write_number(data, type, at, alpha * value + kept);
}

}  // namespace softgpu
