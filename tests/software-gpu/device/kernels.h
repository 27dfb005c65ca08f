// Compiled kernels: what a library of kernels registers, and how to run a grid of one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "settings.h"

namespace softgpu {

struct Kernel {
    const char *name;
    void (*run_thread)(void **parameters);  // the body, for the thread that `softgpu_thread` names
    const uint32_t *parameter_bytes;
    uint32_t parameters;
    bool null_terminated;  // the caller's list of parameters ends in a null pointer
    void (*touch_shared_memory)();  // makes the calling thread's copy of the library's thread-local block
};

struct Shape {
    unsigned x, y, z;
    unsigned count() const { return x * y * z; }
};

SOFTGPU_EXPORT void register_kernel(const Kernel &kernel);
const Kernel *find_kernel(const std::string &name);

// Runs a grid on the calling thread, block after block.
void run_grid(const Kernel &kernel, Shape grid, Shape block, size_t dynamic_shared, void **parameters);

}  // namespace softgpu

// Functions that kernels call (include/cuda_language.h gives them CUDA's names).
extern "C" {
struct softgpu_index {
    unsigned x, y, z;
};
SOFTGPU_EXPORT extern softgpu_index softgpu_thread, softgpu_block, softgpu_block_dim, softgpu_grid_dim;
SOFTGPU_EXPORT void softgpu_barrier();
// Lane of the calling thread in its warp.
SOFTGPU_EXPORT int softgpu_lane();
// Passes `value` to the other lanes of the warp, waits for theirs, and returns that of `from_lane`.
SOFTGPU_EXPORT uint64_t softgpu_exchange(uint64_t value, unsigned mask, int from_lane);
SOFTGPU_EXPORT void *softgpu_dynamic_shared();
}
