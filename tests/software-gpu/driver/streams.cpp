// Streams and events.
#include "api.h"

using namespace softgpu;
using Milliseconds = std::chrono::duration<float, std::milli>;

namespace {

Event *as_event(CUevent event) { return reinterpret_cast<Event *>(event); }

}  // namespace

SOFTGPU_API CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    SOFTGPU_ENTER;
    *stream = reinterpret_cast<CUstream>(create_stream((flags & CU_STREAM_NON_BLOCKING) == 0));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuStreamDestroy_v2(CUstream stream) {
    const Locked locked;
    return destroy_stream(as_stream(stream)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

SOFTGPU_API CUresult cuStreamSynchronize(CUstream stream) {
    SOFTGPU_ENTER;
    drain(as_stream(stream));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    SOFTGPU_ENTER;
    wait_for(as_stream(stream), as_event(event));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventCreate(CUevent *event, unsigned flags) {
    SOFTGPU_ENTER;
    auto *made = new Event;
    made->timing = (flags & CU_EVENT_DISABLE_TIMING) == 0;
    *event = reinterpret_cast<CUevent>(made);
    return CUDA_SUCCESS;
}

// The event is not freed, because queued work may still refer to it.
SOFTGPU_API CUresult cuEventDestroy_v2(CUevent) { return CUDA_SUCCESS; }

SOFTGPU_API CUresult cuEventRecord(CUevent event, CUstream stream) {
    SOFTGPU_ENTER;
    record(as_event(event), as_stream(stream));
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventQuery(CUevent event) {
    const Locked locked;
    return as_event(event)->reached < as_event(event)->recorded ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventSynchronize(CUevent event) {
    SOFTGPU_ENTER;
    reach(as_event(event), as_event(event)->recorded);
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    const Locked locked;
    const Event *first = as_event(start), *last = as_event(end);
    if (!first->timing || !last->timing || first->recorded == 0 || last->recorded == 0) return CUDA_ERROR_INVALID_HANDLE;
    if (first->reached < first->recorded || last->reached < last->recorded) return CUDA_ERROR_NOT_READY;
    *milliseconds = Milliseconds(last->time - first->time).count();
    return CUDA_SUCCESS;
}

SOFTGPU_API CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
