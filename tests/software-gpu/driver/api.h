// Declarations that the files of libcuda.so.1 share.
#pragma once
#include <cuda.h>
// cuda.h renames these to newer versions; programs call the names without a version too.
#undef cuEventElapsedTime

#include "../device/memory.h"
#include "../device/streams.h"

#define SOFTGPU_API extern "C" SOFTGPU_EXPORT

struct CUctx_st {};

namespace softgpu {

// The one context, or null if the calling thread has not made it current.
CUcontext current_context();
// The status that every call checks first: no context, or the error of an earlier launch, which persists.
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
