// What the files of libcuda.so.1 share.
#pragma once
#include <cuda.h>
// cuda.h renames these to newer versions; the names without one are called too.
#undef cuEventElapsedTime

#include "../device/memory.h"
#include "../device/streams.h"

#define SOFTGPU_API extern "C" SOFTGPU_EXPORT

struct CUctx_st {};

namespace softgpu {

// The one context, which the calling thread has made current or not.
CUcontext current_context();
// What every call answers before it does anything: no context, or an error of an earlier launch, which stays.
CUresult call_status();
// Counts a launch.
void count_launch();
uint64_t launches();

inline Stream *as_stream(CUstream stream) {
    const bool is_default = !stream || stream == CU_STREAM_LEGACY || stream == CU_STREAM_PER_THREAD;
    return is_default ? default_stream() : reinterpret_cast<Stream *>(stream);
}

}  // namespace softgpu

#define SOFTGPU_ENTER                                                              \
    const softgpu::Locked locked;                                                  \
    if (const CUresult status = softgpu::call_status(); status != CUDA_SUCCESS) return status
