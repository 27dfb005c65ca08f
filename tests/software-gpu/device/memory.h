// The device's memory: allocations between guard zones, filled with NaNs when fresh and when freed.
//
// Every function is called with the device's lock held (streams.h).
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

// Null if the device has not that much left.
void *allocate(size_t bytes);

// False, after a fault, if `pointer` is not the start of a live allocation.
bool release(void *pointer);

// The allocation that holds the byte at `pointer`, freed ones included, or null.
const Allocation *find_allocation(const void *pointer);

// Whether [pointer, pointer + bytes) lies in one live allocation; reports a fault that starts with `what` if not.
SOFTGPU_EXPORT bool check_range(const void *pointer, size_t bytes, const char *what);

// Reports writes around every allocation and into freed memory.
void check_guards();

MemoryTotals memory_totals();

// Page-locked memory of the host.
void *allocate_pinned(size_t bytes);
void release_pinned(void *pointer);
bool is_pinned(const void *pointer);

}  // namespace softgpu
