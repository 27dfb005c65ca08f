// Modules and launches.
//
// The machine code of a module is not read: a kernel is found by its name among the kernels compiled for the CPU. For
// PTX the names are known too, so a kernel that is not in the module is not found.
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../device/kernels.h"
#include "api.h"

using namespace softgpu;

namespace {

constexpr uint32_t FAT_BINARY = 0xBA55ED50, ELF = 0x464C457F;

struct Module {
    bool names_known;
    std::set<std::string> names;
};

// The parameters of a launch, copied immediately as in the driver. The copies are made of eight-byte words, because
// pointers are aligned to eight bytes.
class Parameters {
  public:
    Parameters(const Kernel &kernel, void **from) : words_(kernel.parameters) {
        for (uint32_t i = 0; i < kernel.parameters; i++) {
            words_[i].resize((kernel.parameter_bytes[i] + 7) / 8);
            memcpy(words_[i].data(), from[i], kernel.parameter_bytes[i]);
        }
    }

    std::vector<void *> pointers() {
        std::vector<void *> all;
        for (auto &words : words_) all.push_back(words.data());
        return all;
    }

    // Reports pointers into freed memory. Any eight bytes with such an address count as a pointer. The exception is an
    // int followed by padding, as at the end of `Norm` (train/cuda/kernels/common.cuh), because padding has arbitrary
    // content.
    void check(const Kernel &kernel) const {
        constexpr uint64_t SMALL_INT = 16;
        for (uint32_t i = 0; i < kernel.parameters; i++)
            for (size_t word = 0; word < kernel.parameter_bytes[i] / 8; word++) {
                if ((words_[i][word] & 0xFFFFFFFF) < SMALL_INT) continue;
                const Allocation *found = find_allocation(reinterpret_cast<void *>(words_[i][word]));
                if (found && found->freed) fault("%s: parameter %u points into freed memory (%zu bytes)", kernel.name, i, found->bytes);
            }
    }

  private:
    std::vector<std::vector<uint64_t>> words_;
};

bool is_valid(Shape grid, Shape block, unsigned shared) {
    return grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && block.x >= 1 && block.y >= 1 && block.z >= 1 && grid.x <= 0x7FFFFFFF &&
           grid.y <= 65535 && grid.z <= 65535 && block.x <= 1024 && block.y <= 1024 && block.z <= 64 && block.count() <= 1024 &&
           shared <= 227 << 10;
}

// Whether the caller's list has as many parameters as the kernel; null pointers mark its end.
bool count_is_right(const Kernel &kernel, void **parameters) {
    for (uint32_t i = 0; i < kernel.parameters; i++)
        if (!parameters[i]) {
            fault("%s: %u of %u parameters", kernel.name, i, kernel.parameters);
            return false;
        }
    if (!kernel.null_terminated || !parameters[kernel.parameters]) return true;
    fault("%s: more than %u parameters", kernel.name, kernel.parameters);
    return false;
}

}  // namespace

SOFTGPU_API CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    SOFTGPU_ENTER;
    uint32_t magic;
    memcpy(&magic, image, sizeof magic);
    auto loaded = std::make_unique<Module>();
    loaded->names_known = magic != FAT_BINARY && magic != ELF;
    if (loaded->names_known) {
        constexpr const char *ENTRY = ".entry ";
        for (const char *at = static_cast<const char *>(image); (at = strstr(at, ENTRY));) {
            at += strlen(ENTRY);
            loaded->names.emplace(at, strcspn(at, "( \t\r\n"));
        }
        if (loaded->names.empty()) return CUDA_ERROR_INVALID_PTX;
    }
    *module = reinterpret_cast<CUmodule>(loaded.release());
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuModuleUnload(CUmodule module) {
    delete reinterpret_cast<Module *>(module);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    SOFTGPU_ENTER;
    const auto &loaded = *reinterpret_cast<const Module *>(module);
    if (loaded.names_known && loaded.names.count(name) == 0) return CUDA_ERROR_NOT_FOUND;
    const Kernel *kernel = find_kernel(name);
    if (!kernel && loaded.names_known) give_up("kernel %s was not compiled for the software GPU", name);
    if (!kernel) return CUDA_ERROR_NOT_FOUND;
    *function = reinterpret_cast<CUfunction>(const_cast<Kernel *>(kernel));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }

SOFTGPU_API CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                    unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **parameters, void **) {
    SOFTGPU_ENTER;
    const Kernel &kernel = *reinterpret_cast<const Kernel *>(function);
    const Shape grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (!is_valid(grid, block, shared)) {
        fault("%s: a grid of %u x %u x %u blocks of %u x %u x %u threads and %u bytes", kernel.name, grid_x, grid_y, grid_z, block_x, block_y,
              block_z, shared);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!count_is_right(kernel, parameters)) return CUDA_ERROR_INVALID_VALUE;
    count_launch();
    const auto copied = std::make_shared<Parameters>(kernel, parameters);
    copied->check(kernel);
    submit(as_stream(stream), [=, &kernel] { run_grid(kernel, grid, block, shared, copied->pointers().data()); });
    return CUDA_SUCCESS;
}
