// Allocations, copies and fills.
#include <cstring>
#include <memory>
#include <vector>

#include "api.h"

using namespace softgpu;

namespace {

void *host(CUdeviceptr pointer) { return reinterpret_cast<void *>(pointer); }

CUresult allocate_into(CUdeviceptr *pointer, size_t bytes) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    void *memory = allocate(bytes);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    *pointer = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
}

bool overlap(CUdeviceptr a, CUdeviceptr b, size_t bytes) { return bytes > 0 && a < b + bytes && b < a + bytes; }

}  // namespace

SOFTGPU_API CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t bytes) {
    SOFTGPU_ENTER;
    return allocate_into(pointer, bytes);
}

SOFTGPU_API CUresult cuMemAllocAsync(CUdeviceptr *pointer, size_t bytes, CUstream) {
    SOFTGPU_ENTER;
    if (!settings().pools) return CUDA_ERROR_NOT_SUPPORTED;
    return allocate_into(pointer, bytes);
}

SOFTGPU_API CUresult cuMemFree_v2(CUdeviceptr pointer) {
    SOFTGPU_ENTER;
    // The driver waits for the whole device first.
    drain_all();
    return release(host(pointer)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

SOFTGPU_API CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    SOFTGPU_ENTER;
    submit(as_stream(stream), [=] { release(host(pointer)); });
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    SOFTGPU_ENTER;
    *total = settings().memory;
    *free = *total - memory_totals().live_bytes;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice) {
    *pool = nullptr;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void *) { return CUDA_SUCCESS; }

SOFTGPU_API CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    SOFTGPU_ENTER;
    *pointer = allocate_pinned(bytes);
    return *pointer ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

SOFTGPU_API CUresult cuMemFreeHost(void *pointer) {
    SOFTGPU_ENTER;
    // The driver would wait for copies that use this memory. This one does not: a copy that still runs is the program's
    // mistake.
    release_pinned(pointer);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    SOFTGPU_ENTER;
    if (is_pinned(from)) {
        // A copy engine reads page-locked memory when the copy runs, not when it is issued.
        submit(as_stream(stream), [=] {
            if (!is_pinned(from)) return fault("copy to the device: its page-locked memory was freed");
            if (check_range(host(to), bytes, "copy to the device")) memcpy(host(to), from, bytes);
        });
        return CUDA_SUCCESS;
    }
    // Pageable memory is staged before the call returns.
    const char *first = static_cast<const char *>(from);
    const auto staged = std::make_shared<const std::vector<char>>(first, first + bytes);
    submit(as_stream(stream), [=] {
        if (check_range(host(to), bytes, "copy to the device")) memcpy(host(to), staged->data(), bytes);
    });
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
}

SOFTGPU_API CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    SOFTGPU_ENTER;
    submit(as_stream(stream), [=] {
        if (check_range(host(from), bytes, "copy to the host")) memcpy(to, host(from), bytes);
    });
    // A copy to pageable memory is complete when the call returns.
    if (!is_pinned(to)) drain(as_stream(stream));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    SOFTGPU_ENTER;
    const CUresult status = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
    drain(default_stream());
    return status;
}

SOFTGPU_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    SOFTGPU_ENTER;
    submit(as_stream(stream), [=] {
        if (!check_range(host(to), bytes, "copy on the device, target")) return;
        if (!check_range(host(from), bytes, "copy on the device, source")) return;
        if (overlap(to, from, bytes)) fault("a copy on the device whose source and target overlap");
        memmove(host(to), host(from), bytes);
    });
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}

SOFTGPU_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    SOFTGPU_ENTER;
    submit(as_stream(stream), [=] {
        if (check_range(host(to), bytes, "fill")) memset(host(to), value, bytes);
    });
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t bytes) {
    return cuMemsetD8Async(to, value, bytes, nullptr);
}
