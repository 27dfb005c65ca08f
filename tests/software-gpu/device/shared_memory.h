// The static shared memory of a library of kernels.
#pragma once
#include "kernels.h"

namespace softgpu {

// `__shared__` variables are the only thread-local ones of such a library, so its thread-local block is its shared memory.
struct SharedMemory {
    void *data = nullptr;
    size_t bytes = 0;
};

// The calling thread's block of the library that holds `kernel`.
SharedMemory shared_memory(const Kernel &kernel);

}  // namespace softgpu
