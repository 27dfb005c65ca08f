// Settings from the environment, and fault reports. README.md lists the variables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

// Functions that other libraries of this folder, or the program under test, may call.
#define SOFTGPU_EXPORT __attribute__((visibility("default")))

namespace softgpu {

// The order in which the blocks of a grid run, and the threads of a block between two barriers.
enum class ThreadOrder { Forward, Reverse, Shuffle };

// The time at which the work of a stream runs.
enum class StreamOrder {
    Eager,   // immediately
    Lazy,    // when the host waits for it, as late as possible
    Random,  // any part of it at any call, if events allow
};

struct Settings {
    ThreadOrder threads = ThreadOrder::Forward;
    uint64_t thread_seed = 1;
    StreamOrder streams = StreamOrder::Eager;
    uint64_t stream_seed = 1;
    int multiprocessors = 4;
    size_t memory = size_t(8) << 30;
    bool pools = true;               // stream-ordered allocation
    bool accumulating_engines = true;  // cuDNN engines that add to their result
    bool f64_convolutions = false;
    bool poison = true;
    bool strict = false;
    bool verbose = false;
    std::optional<uint64_t> failing_launch;
    std::string report;
};

// Read once. An invalid value ends the process: a misspelled order must not test the default one.
SOFTGPU_EXPORT const Settings &settings();

// Pseudo-random words (xorshift64*); the same seed gives the same words.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull | 1) {}
    // Uniform in 0 .. count - 1.
    uint64_t below(uint64_t count);

  private:
    uint64_t state_;
};

// Reports a mistake of the program under test. Each text is printed once, and appended to the file SOFTGPU_REPORT. With
// SOFTGPU_STRICT=1 the report ends the process.
SOFTGPU_EXPORT void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Prints a message and aborts: the software GPU lacks a feature or cannot continue.
[[noreturn]] SOFTGPU_EXPORT void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace softgpu
