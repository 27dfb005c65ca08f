// Descriptors: the attributes that the caller sets, and the data that finalizing derives from them.
#pragma once
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "convolution.h"
#include "names.h"

namespace softgpu::cudnn {

// Properties of an engine. The program must not use engines with some of them.
struct Engine {
    int64_t number;
    std::vector<int32_t> notes;
    int64_t workspace;
    bool accumulates;  // can add to its result
};

class Descriptor {
  public:
    explicit Descriptor(int object) : object(object) {}

    Status set(int attribute, int kind, int64_t count, const void *data);

    // Reads an attribute of exactly `count` values; returns false if it does not have that many.
    template <typename T> bool get(Attribute attribute, T *values, size_t count) const {
        const auto found = attributes_.find(attribute);
        if (found == attributes_.end() || found->second.size() != count * sizeof(T)) return false;
        memcpy(values, found->second.data(), count * sizeof(T));
        return true;
    }
    template <typename T> bool get(Attribute attribute, T &value) const { return get(attribute, &value, 1); }
    // The finalized descriptor that an attribute refers to, or null.
    const Descriptor *part(Attribute attribute, Object object) const;

    const int object;
    bool finalized = false;
    const Engine *engine = nullptr;              // of an engine, a configuration and a plan
    std::shared_ptr<const Convolution> problem;  // of an operation, and of all that is made from it

  private:
    std::map<int, std::vector<char>> attributes_;
};

// The convolution that a finalized operation describes, or null after a fault.
std::shared_ptr<const Convolution> describe(const Descriptor &operation);
// Whether the tensor is complete.
bool read_tensor(const Descriptor &descriptor, Tensor &tensor);

}  // namespace softgpu::cudnn
