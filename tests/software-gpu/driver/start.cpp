// Initialization, the device and its context.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "api.h"

namespace softgpu {
namespace {

CUctx_st only_context;
thread_local CUcontext current = nullptr;
std::atomic<uint64_t> launched{0};

void at_exit() {
    const Locked locked;
    check_guards();
    if (!settings().verbose) return;
    const MemoryTotals totals = memory_totals();
    fprintf(stderr, "software-gpu: %lu launches; %.1f MB at most, %.1f MB not freed\n", (unsigned long)launches(),
            double(totals.peak_bytes) / 1e6, double(totals.live_bytes) / 1e6);
}

// The kernels are in kernels-*.so next to this library; each library registers its kernels when it is loaded.
void load_kernels() {
    Dl_info self;
    dladdr(reinterpret_cast<void *>(&load_kernels), &self);
    int loaded = 0;
    for (const auto &entry : std::filesystem::directory_iterator(std::filesystem::path(self.dli_fname).parent_path())) {
        const std::string name = entry.path().filename();
        if (name.rfind("kernels-", 0) != 0 || entry.path().extension() != ".so") continue;
        if (!dlopen(entry.path().c_str(), RTLD_NOW | RTLD_LOCAL)) give_up("%s", dlerror());
        loaded++;
    }
    if (loaded == 0) give_up("%s: no kernels-*.so beside it", self.dli_fname);
}

}  // namespace

CUcontext current_context() { return current; }

CUresult call_status() {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    const auto &failing = settings().failing_launch;
    return failing && launched >= *failing ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}

void count_launch() { launched++; }
uint64_t launches() { return launched; }

}  // namespace softgpu

using namespace softgpu;

SOFTGPU_API CUresult cuInit(unsigned) {
    const Locked locked;
    static bool started = false;
    if (started) return CUDA_SUCCESS;
    started = true;
    load_kernels();
    atexit(at_exit);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (ordinal != 0) return CUDA_ERROR_INVALID_DEVICE;
    *device = 0;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetName(char *name, int bytes, CUdevice) {
    snprintf(name, size_t(bytes), "software GPU");
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice) {
    *bytes = settings().memory;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = settings().multiprocessors; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = settings().pools; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = 48 << 10; break;
    default: give_up("attribute %d of the device is not implemented", attribute);
    }
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    *context = &only_context;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
    const Locked locked;
    drain_all();
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuCtxSetCurrent(CUcontext context) {
    current = context;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = current_context();
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuCtxSynchronize() {
    SOFTGPU_ENTER;
    drain_all();
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }

SOFTGPU_API CUresult cuGetErrorName(CUresult error, const char **text) {
    static thread_local char buffer[64];
    snprintf(buffer, sizeof buffer, "CUDA_ERROR_%d", error);
    *text = buffer;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuGetErrorString(CUresult error, const char **text) { return cuGetErrorName(error, text); }
