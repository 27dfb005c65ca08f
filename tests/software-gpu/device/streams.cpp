#include "streams.h"

#include <set>
#include <vector>

namespace softgpu {
namespace {

std::recursive_mutex &device_lock() {
    static auto *lock = new std::recursive_mutex;
    return *lock;
}

std::set<Stream *> &created_streams() {
    static auto *all = new std::set<Stream *>;
    return *all;
}

std::vector<Stream *> all_streams() {
    std::vector<Stream *> all(created_streams().begin(), created_streams().end());
    all.push_back(default_stream());
    return all;
}

bool can_run(const Operation &next) { return !next.event || next.event->reached >= next.version; }

void run_next(Stream *stream) {
    const Operation next = std::move(stream->queue.front());
    stream->queue.pop_front();
    if (next.work) next.work();
}

// Runs a stream, and everything that it waits for, until it is empty or `event` has reached `version`.
void drain_until(Stream *stream, const Event *event, uint64_t version) {
    while (!stream->queue.empty() && !(event && event->reached >= version)) {
        const Operation &next = stream->queue.front();
        if (can_run(next)) run_next(stream);
        else reach(next.event, next.version);
    }
}

// Runs random amounts of work of random streams, if events allow.
void run_at_random() {
    static Random random(settings().stream_seed);
    for (Stream *stream : all_streams())
        while (!stream->queue.empty() && can_run(stream->queue.front()) && random.below(3) == 0) run_next(stream);
}

// The default stream and blocking streams run one after another, in the order in which work was issued.
void respect_default_stream(const Stream *stream) {
    if (stream == default_stream()) {
        for (Stream *other : created_streams())
            if (other->blocking) drain(other);
    } else if (stream->blocking) {
        drain(default_stream());
    }
}

void enqueue(Stream *stream, Operation operation) {
    if (settings().streams != StreamOrder::Eager) respect_default_stream(stream);
    stream->queue.push_back(std::move(operation));
    switch (settings().streams) {
    case StreamOrder::Eager: drain(stream); break;
    case StreamOrder::Lazy: break;
    case StreamOrder::Random: run_at_random(); break;
    }
}

}  // namespace

Locked::Locked() { device_lock().lock(); }
Locked::~Locked() { device_lock().unlock(); }

Stream *default_stream() {
    static auto *stream = new Stream{true, {}};
    return stream;
}

Stream *create_stream(bool blocking) {
    auto *stream = new Stream{blocking, {}};
    created_streams().insert(stream);
    return stream;
}

bool destroy_stream(Stream *stream) {
    if (created_streams().erase(stream) == 0) {
        fault("a stream is destroyed that does not exist");
        return false;
    }
    // Its memory is not freed, because events may still refer to it.
    drain(stream);
    return true;
}

void record(Event *event, Stream *stream) {
    const uint64_t version = ++event->recorded;
    event->stream = stream;
    enqueue(stream, {[=] { event->reached = version, event->time = std::chrono::steady_clock::now(); }});
}

void wait_for(Stream *stream, Event *event) {
    if (event->recorded > event->reached) enqueue(stream, {nullptr, event, event->recorded});
}

void drain(Stream *stream) { drain_until(stream, nullptr, 0); }

void drain_all() {
    for (Stream *stream : all_streams()) drain(stream);
}

void reach(Event *event, uint64_t version) {
    if (event->reached >= version) return;
    drain_until(event->stream, event, version);
}

void submit(void *stream, std::function<void()> work) {
    const Locked locked;
    enqueue(stream ? static_cast<Stream *>(stream) : default_stream(), {std::move(work)});
}

}  // namespace softgpu
