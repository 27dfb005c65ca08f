#include "descriptor.h"

#include "../../device/settings.h"

namespace softgpu::cudnn {
namespace {

size_t bytes_of(int kind) {
    switch (kind) {
    case DATA_TYPE:
    case FLOAT:
    case CONVOLUTION_MODE:
    case HEURISTIC_MODE:
    case NUMERICAL_NOTE: return 4;
    case HANDLE:
    case INT64:
    case VOID_PTR:
    case DESCRIPTOR: return 8;
    default: give_up("cuDNN: attributes of type %d are not implemented", kind);
    }
}

// The type that cuDNN requires for an attribute.
int kind_of(int attribute) {
    switch (attribute) {
    case CONVOLUTION_COMPUTE_TYPE:
    case TENSOR_DATA_TYPE: return DATA_TYPE;
    case CONVOLUTION_CONVOLUTION_MODE: return CONVOLUTION_MODE;
    case HEURISTICS_MODE: return HEURISTIC_MODE;
    case FORWARD_ALPHA:
    case FORWARD_BETA:
    case BACKWARD_DATA_ALPHA:
    case BACKWARD_DATA_BETA:
    case BACKWARD_FILTER_ALPHA:
    case BACKWARD_FILTER_BETA: return FLOAT;
    case PLAN_HANDLE:
    case GRAPH_HANDLE: return HANDLE;
    case PACK_POINTERS:
    case PACK_WORKSPACE: return VOID_PTR;
    case CONVOLUTION_DILATIONS:
    case CONVOLUTION_STRIDES:
    case CONVOLUTION_POST_PADDINGS:
    case CONVOLUTION_PRE_PADDINGS:
    case CONVOLUTION_SPATIAL_DIMS:
    case TENSOR_ALIGNMENT:
    case TENSOR_DIMENSIONS:
    case TENSOR_STRIDES:
    case TENSOR_ID:
    case PACK_IDS: return INT64;
    default: return DESCRIPTOR;
    }
}

// The attributes for the parts of an operation: the tensors as x, w, y, then convolution, alpha and beta.
struct OperationNames {
    Attribute x, w, y, convolution, alpha, beta;
};

OperationNames names_of(int object) {
    switch (object) {
    case CONVOLUTION_FORWARD: return {FORWARD_X, FORWARD_W, FORWARD_Y, FORWARD_CONVOLUTION, FORWARD_ALPHA, FORWARD_BETA};
    case CONVOLUTION_BACKWARD_DATA:
        return {BACKWARD_DATA_DX, BACKWARD_DATA_W, BACKWARD_DATA_DY, BACKWARD_DATA_CONVOLUTION, BACKWARD_DATA_ALPHA, BACKWARD_DATA_BETA};
    default:
        return {BACKWARD_FILTER_X,           BACKWARD_FILTER_DW,    BACKWARD_FILTER_DY,
                BACKWARD_FILTER_CONVOLUTION, BACKWARD_FILTER_ALPHA, BACKWARD_FILTER_BETA};
    }
}

Pass pass_of(int object) {
    switch (object) {
    case CONVOLUTION_FORWARD: return Pass::Forward;
    case CONVOLUTION_BACKWARD_DATA: return Pass::Data;
    default: return Pass::Filter;
    }
}

bool read_part(const Descriptor &operation, Attribute name, Tensor &tensor) {
    const Descriptor *part = operation.part(name, TENSOR);
    return part && read_tensor(*part, tensor);
}

bool read_window(const Descriptor *window, Window &into) {
    int64_t axes = 0;
    int32_t compute = -1, mode = -1;
    return window && window->get(CONVOLUTION_SPATIAL_DIMS, axes) && axes == 2 && window->get(CONVOLUTION_COMPUTE_TYPE, compute) &&
           compute == DATA_FLOAT && window->get(CONVOLUTION_CONVOLUTION_MODE, mode) && mode == CROSS_CORRELATION &&
           window->get(CONVOLUTION_PRE_PADDINGS, into.padding_before, 2) && window->get(CONVOLUTION_POST_PADDINGS, into.padding_after, 2) &&
           window->get(CONVOLUTION_DILATIONS, into.dilation, 2) && window->get(CONVOLUTION_STRIDES, into.stride, 2);
}

}  // namespace

Status Descriptor::set(int attribute, int kind, int64_t count, const void *data) {
    if (finalized) {
        fault("cuDNN: attribute %d is set after its descriptor was finalized", attribute);
        return BAD_PARAM;
    }
    if (kind != kind_of(attribute)) {
        fault("cuDNN: attribute %d is set with type %d; expected type %d", attribute, kind, kind_of(attribute));
        return BAD_PARAM;
    }
    const char *bytes = static_cast<const char *>(data);
    attributes_[attribute].assign(bytes, bytes + size_t(count) * bytes_of(kind));
    return SUCCESS;
}

const Descriptor *Descriptor::part(Attribute attribute, Object object) const {
    const Descriptor *found = nullptr;
    if (!get(attribute, found) || !found) return nullptr;
    return found->object == object && found->finalized ? found : nullptr;
}

bool read_tensor(const Descriptor &descriptor, Tensor &tensor) {
    int32_t type = -1;
    const bool complete = descriptor.get(TENSOR_DATA_TYPE, type) && descriptor.get(TENSOR_DIMENSIONS, tensor.dims, 4) &&
                          descriptor.get(TENSOR_STRIDES, tensor.strides, 4) && descriptor.get(TENSOR_ID, tensor.id) &&
                          descriptor.get(TENSOR_ALIGNMENT, tensor.alignment);
    switch (type) {
    case DATA_FLOAT: tensor.type = Type::F32; break;
    case DATA_HALF: tensor.type = Type::F16; break;
    case DATA_BFLOAT16: tensor.type = Type::BF16; break;
    default: return false;
    }
    return complete;
}

std::shared_ptr<const Convolution> describe(const Descriptor &operation) {
    const OperationNames names = names_of(operation.object);
    auto problem = std::make_shared<Convolution>();
    problem->pass = pass_of(operation.object);
    const bool complete = read_part(operation, names.x, problem->x) && read_part(operation, names.w, problem->w) &&
                          read_part(operation, names.y, problem->y) && operation.get(names.alpha, problem->alpha) &&
                          operation.get(names.beta, problem->beta) &&
                          read_window(operation.part(names.convolution, CONVOLUTION), problem->window);
    if (!complete) {
        fault("cuDNN: a convolution with a part that is missing or not finalized");
        return nullptr;
    }
    return problem->is_consistent() ? problem : nullptr;
}

}  // namespace softgpu::cudnn
