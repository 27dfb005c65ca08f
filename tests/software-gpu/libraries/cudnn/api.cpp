// libcudnn.so.9: the part of the graph interface that one convolution needs, with the same checks as cuDNN.
#include <atomic>
#include <cstdio>
#include <iterator>

#include "../../device/memory.h"
#include "../../device/streams.h"
#include "descriptor.h"

#define SOFTGPU_API extern "C" SOFTGPU_EXPORT
using namespace softgpu;
using namespace softgpu::cudnn;

namespace {

struct Handle {
    void *stream = nullptr;
};

// Best first, in the order of the heuristics. A program must never use the first two; for f32 it must use none of the
// first four.
const Engine ENGINES[] = {
    {90, {NOTE_TENSOR_CORE, NOTE_NONDETERMINISTIC}, 0, true},
    {91, {NOTE_TENSOR_CORE}, (int64_t(1) << 30) + 1, true},  // more memory than allowed
    {1, {NOTE_TENSOR_CORE}, 4096, true},
    {2, {NOTE_TENSOR_CORE}, 1 << 20, false},
    {3, {}, 0, true},
    {4, {}, 12345, false},
};
constexpr int64_t ENGINE_COUNT = std::size(ENGINES);

std::atomic<int64_t> descriptors_alive{0}, handles_alive{0};

bool supports(const Engine &engine, const Convolution &problem) {
    const bool adds = problem.beta != 0.f;
    if (adds && !(engine.accumulates && settings().accumulating_engines)) return false;
    return problem.result().type == problem.operand_type();
}

Status incomplete(const char *what) {
    fault("cuDNN: %s that is incomplete is finalized", what);
    return BAD_PARAM;
}

// Checks a descriptor, and copies to it the data of the descriptors that it refers to.
Status finalize(Descriptor &descriptor) {
    switch (descriptor.object) {
    case TENSOR: {
        Tensor tensor;
        return read_tensor(descriptor, tensor) ? SUCCESS : incomplete("a tensor");
    }
    case CONVOLUTION_FORWARD:
    case CONVOLUTION_BACKWARD_DATA:
    case CONVOLUTION_BACKWARD_FILTER: descriptor.problem = describe(descriptor); return descriptor.problem ? SUCCESS : BAD_PARAM;
    case OPERATION_GRAPH: {
        const Descriptor *operation = nullptr;
        if (!descriptor.get(GRAPH_OPERATIONS, operation) || !operation->finalized || !operation->problem) return incomplete("a graph");
        descriptor.problem = operation->problem;
        return SUCCESS;
    }
    case ENGINE_HEURISTICS: {
        const Descriptor *graph = descriptor.part(HEURISTICS_GRAPH, OPERATION_GRAPH);
        int32_t mode;
        if (!graph || !descriptor.get(HEURISTICS_MODE, mode)) return incomplete("a heuristic");
        descriptor.problem = graph->problem;
        return SUCCESS;
    }
    case EXECUTION_PLAN: {
        const Descriptor *config = descriptor.part(PLAN_CONFIG, ENGINE_CONFIG);
        if (!config) return incomplete("a plan");
        if (!supports(*config->engine, *config->problem)) return NOT_SUPPORTED;
        descriptor.engine = config->engine;
        descriptor.problem = config->problem;
        return SUCCESS;
    }
    case CONVOLUTION:
    case VARIANT_PACK: return SUCCESS;
    default: return BAD_PARAM;
    }
}

// The configurations that a heuristic proposes: all engines, or only the last one for the fallback.
Status propose(const Descriptor &heuristics, int64_t room, int64_t *count, void *data) {
    int32_t mode = 0;
    heuristics.get(HEURISTICS_MODE, mode);
    const int64_t first = mode == HEURISTICS_FALLBACK ? ENGINE_COUNT - 1 : 0;
    *count = ENGINE_COUNT - first;
    if (!data) return SUCCESS;
    *count = std::min(*count, room);
    auto **places = static_cast<Descriptor **>(data);
    for (int64_t i = 0; i < *count; i++) {
        if (!places[i] || places[i]->object != ENGINE_CONFIG) return BAD_PARAM;
        places[i]->engine = &ENGINES[first + i];
        places[i]->problem = heuristics.problem;
        places[i]->finalized = true;
    }
    return SUCCESS;
}

template <typename T> Status answer(const std::vector<T> &values, int64_t room, int64_t *count, void *data) {
    *count = int64_t(values.size());
    if (data) memcpy(data, values.data(), size_t(std::min(room, *count)) * sizeof(T));
    return SUCCESS;
}

// The tensors of an execution: addresses in the order x, w, y.
struct Execution {
    std::shared_ptr<const Convolution> problem;
    char *tensors[3];
    char *workspace;
    size_t workspace_bytes;

    void run() const;
    bool ranges_are_valid() const;
};

bool Execution::ranges_are_valid() const {
    static const char *const NAMES[3] = {"convolution, x", "convolution, w", "convolution, y"};
    const Tensor *shapes[3] = {&problem->x, &problem->w, &problem->y};
    const Tensor *result = &problem->result();
    const auto overlap = [](const char *a, size_t a_bytes, const char *b, size_t b_bytes) { return a < b + b_bytes && b < a + a_bytes; };
    const char *target = nullptr;
    for (int i = 0; i < 3; i++)
        if (shapes[i] == result) target = tensors[i];
    for (int i = 0; i < 3; i++) {
        const size_t bytes = shapes[i]->bytes();
        if (!check_range(tensors[i], bytes, NAMES[i])) return false;
        if (overlap(workspace, workspace_bytes, tensors[i], bytes)) fault("%s overlaps the workspace", NAMES[i]);
        if (shapes[i] != result && overlap(target, result->bytes(), tensors[i], bytes)) fault("%s overlaps the result", NAMES[i]);
    }
    return check_range(workspace, workspace_bytes, "convolution, workspace");
}

void Execution::run() const {
    if (!ranges_are_valid()) return;
    // An engine may leave arbitrary content there.
    if (workspace_bytes > 0) memset(workspace, 0xFF, workspace_bytes);
    problem->compute(tensors[0], tensors[1], tensors[2]);
}

}  // namespace

SOFTGPU_API size_t cudnnGetVersion() { return 91000; }
SOFTGPU_API const char *cudnnGetErrorString(int) { return "an error of the software GPU"; }

SOFTGPU_API int cudnnCreate(Handle **handle) {
    *handle = new Handle;
    handles_alive++;
    return SUCCESS;
}

SOFTGPU_API int cudnnDestroy(Handle *handle) {
    // Descriptors have no reference to a handle, so the remaining ones are reported with the last handle.
    if (--handles_alive == 0 && descriptors_alive != 0) fault("cuDNN: %ld descriptors outlive the handle", long(descriptors_alive));
    delete handle;
    return SUCCESS;
}

SOFTGPU_API int cudnnSetStream(Handle *handle, void *stream) {
    handle->stream = stream;
    return SUCCESS;
}

SOFTGPU_API int cudnnBackendCreateDescriptor(int object, Descriptor **descriptor) {
    descriptors_alive++;
    *descriptor = new Descriptor(object);
    return SUCCESS;
}

SOFTGPU_API int cudnnBackendDestroyDescriptor(Descriptor *descriptor) {
    descriptors_alive--;
    delete descriptor;
    return SUCCESS;
}

SOFTGPU_API int cudnnBackendSetAttribute(Descriptor *descriptor, int attribute, int kind, int64_t count, const void *data) {
    return descriptor->set(attribute, kind, count, data);
}

SOFTGPU_API int cudnnBackendFinalize(Descriptor *descriptor) {
    const Status status = finalize(*descriptor);
    descriptor->finalized = status == SUCCESS;
    return status;
}

SOFTGPU_API int cudnnBackendGetAttribute(Descriptor *descriptor, int attribute, int, int64_t room, int64_t *count, void *data) {
    if (!descriptor->finalized) return NOT_FINALIZED;
    switch (attribute) {
    case HEURISTICS_RESULTS: return propose(*descriptor, room, count, data);
    case CONFIG_ENGINE: {
        auto *engine = *static_cast<Descriptor **>(data);
        if (!engine || engine->object != ENGINE) return BAD_PARAM;
        engine->engine = descriptor->engine;
        engine->problem = descriptor->problem;
        engine->finalized = true;
        *count = 1;
        return SUCCESS;
    }
    case ENGINE_NUMERICAL_NOTES: return answer(descriptor->engine->notes, room, count, data);
    case ENGINE_GLOBAL_INDEX: return answer(std::vector<int64_t>{descriptor->engine->number}, room, count, data);
    case PLAN_WORKSPACE_SIZE: return answer(std::vector<int64_t>{descriptor->engine->workspace}, room, count, data);
    default: give_up("cuDNN: attribute %d of a descriptor of type %d is not implemented", attribute, descriptor->object);
    }
}

SOFTGPU_API int cudnnBackendExecute(Handle *handle, Descriptor *plan, Descriptor *pack) {
    if (!plan->finalized || !pack->finalized) return NOT_FINALIZED;
    int64_t ids[3];
    char *pointers[3];
    Execution execution{plan->problem, {}, nullptr, size_t(plan->engine->workspace)};
    if (!pack->get(PACK_IDS, ids, 3) || !pack->get(PACK_POINTERS, pointers, 3)) return BAD_PARAM;
    if (execution.workspace_bytes > 0 && (!pack->get(PACK_WORKSPACE, execution.workspace) || !execution.workspace)) {
        fault("cuDNN: no workspace for a plan that needs one");
        return BAD_PARAM;
    }
    const Tensor *shapes[3] = {&plan->problem->x, &plan->problem->w, &plan->problem->y};
    for (int tensor = 0; tensor < 3; tensor++) {
        for (int i = 0; i < 3; i++)
            if (ids[i] == shapes[tensor]->id) execution.tensors[tensor] = pointers[i];
        const auto address = reinterpret_cast<uintptr_t>(execution.tensors[tensor]);
        if (address == 0 || address % uint64_t(shapes[tensor]->alignment) != 0) {
            fault("cuDNN: a tensor without an address, or less aligned than its descriptor says");
            return BAD_PARAM;
        }
    }
    submit(handle->stream, [=] { execution.run(); });
    return SUCCESS;
}
