// A convolution and its gradients, computed by loops.
#pragma once
#include <cstdint>

#include "../numbers.h"

namespace softgpu::cudnn {

// Four dimensions in the order NCHW or OIHW. The second one must be innermost in memory.
struct Tensor {
    Type type;
    int64_t dims[4], strides[4];
    int64_t id, alignment;

    bool is_channels_last() const;
    size_t count() const { return size_t(dims[0] * dims[1] * dims[2] * dims[3]); }
    size_t bytes() const { return count() * size_of(type); }
};

// Parameters along height and width.
struct Window {
    int64_t padding_before[2], padding_after[2], dilation[2], stride[2];
};

enum class Pass { Forward, Data, Filter };

struct Convolution {
    Pass pass;
    Tensor x, w, y;
    Window window;
    float alpha, beta;

    const Tensor &result() const;
    Type operand_type() const { return pass == Pass::Forward ? x.type : y.type; }
    // Whether layouts and sizes fit; reports a fault if not.
    bool is_consistent() const;
    // Reads two of the tensors and writes the third, or adds to it.
    void compute(void *x, void *w, void *y) const;
};

}  // namespace softgpu::cudnn
