#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

namespace softgpu {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t GUARD = 0;  // AddressSanitizer has red zones and a quarantine of its own, which are exact
constexpr size_t QUARANTINE = 0;
#else
constexpr size_t GUARD = 512;
constexpr size_t QUARANTINE = size_t(256) << 20;
#endif
constexpr unsigned char GUARD_BYTE = 0xA7;
// Four of these bytes are a NaN in f32, two in f16 and bf16.
constexpr unsigned char POISON = 0xFF;
// The alignment that the driver guarantees.
constexpr size_t ALIGNMENT = 256;

struct Memory {
    std::map<uintptr_t, Allocation> allocations;
    std::deque<uintptr_t> quarantine;
    size_t quarantined = 0;
    MemoryTotals totals{};
    std::map<uintptr_t, size_t> pinned;
};

// Never destroyed, because the program may free memory while it exits.
Memory &memory() {
    static auto *all = new Memory;
    return *all;
}

uintptr_t address(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer); }

bool is_filled(const char *from, size_t bytes, unsigned char value) {
    return std::all_of(from, from + bytes, [=](char byte) { return static_cast<unsigned char>(byte) == value; });
}

void check_allocation(const Allocation &one) {
    if (!is_filled(one.base - GUARD, GUARD, GUARD_BYTE)) fault("memory before an allocation of %zu bytes was written", one.bytes);
    if (!is_filled(one.base + one.bytes, GUARD, GUARD_BYTE)) fault("memory behind an allocation of %zu bytes was written", one.bytes);
    if (one.freed && settings().poison && !is_filled(one.base, one.bytes, POISON)) fault("freed memory (%zu bytes) was written", one.bytes);
}

// Returns the oldest freed allocations to the system until at most `limit` bytes of them are left.
void shrink_quarantine(size_t limit) {
    Memory &all = memory();
    while (all.quarantined > limit && !all.quarantine.empty()) {
        const auto found = all.allocations.find(all.quarantine.front());
        all.quarantine.pop_front();
        const Allocation one = found->second;
        check_allocation(one);
        all.quarantined -= one.bytes;
        all.allocations.erase(found);
        free(one.base - GUARD);
    }
}

}  // namespace

void *allocate(size_t bytes) {
    Memory &all = memory();
    if (all.totals.live_bytes + bytes > settings().memory) return nullptr;
    void *start = nullptr;
    if (posix_memalign(&start, ALIGNMENT, bytes + 2 * GUARD) != 0) return nullptr;
    char *base = static_cast<char *>(start) + GUARD;
    memset(base - GUARD, GUARD_BYTE, GUARD);
    memset(base + bytes, GUARD_BYTE, GUARD);
    if (settings().poison) memset(base, POISON, bytes);
    all.allocations[address(base)] = {base, bytes, false};
    all.totals.live_bytes += bytes;
    all.totals.peak_bytes = std::max(all.totals.peak_bytes, all.totals.live_bytes);
    return base;
}

bool release(void *pointer) {
    Memory &all = memory();
    const auto found = all.allocations.find(address(pointer));
    if (found == all.allocations.end() || found->second.freed) {
        fault("a free of an address that is no live allocation");
        return false;
    }
    Allocation &one = found->second;
    check_allocation(one);
    one.freed = true;
    all.totals.live_bytes -= one.bytes;
    if (settings().poison) memset(one.base, POISON, one.bytes);
    all.quarantine.push_back(found->first);
    all.quarantined += one.bytes;
    shrink_quarantine(QUARANTINE);
    return true;
}

const Allocation *find_allocation(const void *pointer) {
    const auto &allocations = memory().allocations;
    auto found = allocations.upper_bound(address(pointer));
    if (found == allocations.begin()) return nullptr;
    --found;
    return address(pointer) < found->first + found->second.bytes ? &found->second : nullptr;
}

bool check_range(const void *pointer, size_t bytes, const char *what) {
    if (bytes == 0) return true;
    const Allocation *one = find_allocation(pointer);
    if (!one) {
        fault("%s: %zu bytes at an address that is no memory of the device", what, bytes);
        return false;
    }
    const size_t offset = static_cast<const char *>(pointer) - one->base;
    if (one->freed) {
        fault("%s: %zu bytes in freed memory", what, bytes);
        return false;
    }
    if (offset + bytes > one->bytes) {
        fault("%s: %zu bytes at offset %zu of an allocation of %zu", what, bytes, offset, one->bytes);
        return false;
    }
    return true;
}

void check_guards() {
    for (const auto &[at, one] : memory().allocations) check_allocation(one);
}

MemoryTotals memory_totals() { return memory().totals; }

void *allocate_pinned(size_t bytes) {
    void *pointer = malloc(bytes);
    if (!pointer) return nullptr;
    if (settings().poison) memset(pointer, POISON, bytes);
    memory().pinned[address(pointer)] = bytes;
    return pointer;
}

void release_pinned(void *pointer) {
    if (memory().pinned.erase(address(pointer)) == 0) {
        fault("a free of page-locked memory that is none");
        return;
    }
    free(pointer);
}

bool is_pinned(const void *pointer) {
    const auto &pinned = memory().pinned;
    auto found = pinned.upper_bound(address(pointer));
    if (found == pinned.begin()) return false;
    --found;
    return address(pointer) < found->first + found->second;
}

}  // namespace softgpu
