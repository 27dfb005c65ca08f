// The device's memory: allocations between guard zones, filled with NaNs when allocated and when freed.
//
// All functions require the device's lock (streams.h).
#pragma once
#include <cstddef>
#include <cstdint>

#include "settings.h"

namespace softgpu {

struct Allocation {
    char *base;
    size_t bytes;
    bool freed;  // still known: freed memory stays in quarantine for a while, so that late accesses are seen
};

struct MemoryTotals {
    size_t live_bytes, peak_bytes;
};

// Null if the device does not have that much free memory.
void *allocate(size_t bytes);

// Returns false, after a fault, if `pointer` is not the start of a live allocation.
bool release(void *pointer);

// The allocation that contains the byte at `pointer`, or null. Freed allocations are included.
const Allocation *find_allocation(const void *pointer);

// Whether [pointer, pointer + bytes) is inside one live allocation; if not, reports a fault that starts with `what`.
SOFTGPU_EXPORT bool check_range(const void *pointer, size_t bytes, const char *what);

// Reports writes around every allocation and into freed memory.
void check_guards();

MemoryTotals memory_totals();

// Page-locked host memory.
void *allocate_pinned(size_t bytes);
void release_pinned(void *pointer);
bool is_pinned(const void *pointer);

}  // namespace softgpu
