// Streams and events: queues of work that run when the stream order (settings.h) and the events allow it.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>

#include "settings.h"

namespace softgpu {

// The device runs one operation at a time: every entry point holds this lock.
class Locked {
  public:
    Locked();
    ~Locked();
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
};

struct Stream;

// A point on a stream. Recording it again creates a new version. A wait is for the version that is current when it is
// issued.
struct Event {
    uint64_t recorded = 0;  // versions issued
    uint64_t reached = 0;   // the newest version that has happened
    Stream *stream = nullptr;
    bool timing = true;
    std::chrono::steady_clock::time_point time;
};

// Work, or a wait for a version of an event.
struct Operation {
    std::function<void()> work;
    Event *event = nullptr;
    uint64_t version = 0;
};

struct Stream {
    bool blocking;  // waits for the default stream, and the default stream for it
    std::deque<Operation> queue;
};

Stream *default_stream();
Stream *create_stream(bool blocking);
// Returns false, after a fault, if there is no such stream.
bool destroy_stream(Stream *stream);

void record(Event *event, Stream *stream);
void wait_for(Stream *stream, Event *event);

// Runs the work that the host waits for.
void drain(Stream *stream);
void drain_all();
void reach(Event *event, uint64_t version);

// Issues work to a stream; null is the default stream.
SOFTGPU_EXPORT void submit(void *stream, std::function<void()> work);

}  // namespace softgpu
