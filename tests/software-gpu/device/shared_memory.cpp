#include "shared_memory.h"

#include <link.h>

namespace softgpu {
namespace {

struct Search {
    uintptr_t code;  // an address in the library to find
    SharedMemory found;
};

int visit(dl_phdr_info *library, size_t, void *data) {
    auto *search = static_cast<Search *>(data);
    bool is_it = false;
    size_t bytes = 0;
    for (int i = 0; i < library->dlpi_phnum; i++) {
        const auto &segment = library->dlpi_phdr[i];
        const uintptr_t start = library->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && search->code >= start && search->code < start + segment.p_memsz) is_it = true;
        if (segment.p_type == PT_TLS) bytes = segment.p_memsz;
    }
    if (!is_it) return 0;
    search->found = {library->dlpi_tls_data, bytes};
    return 1;
}

}  // namespace

SharedMemory shared_memory(const Kernel &kernel) {
    // The block is created when a thread first uses it.
    kernel.touch_shared_memory();
    Search search{reinterpret_cast<uintptr_t>(kernel.run_thread), {}};
    dl_iterate_phdr(visit, &search);
    return search.found;
}

}  // namespace softgpu
