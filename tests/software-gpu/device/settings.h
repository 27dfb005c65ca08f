// What the environment asks of the software GPU, and the faults it reports. The variables are listed in README.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

// Functions that other libraries of this folder, or the program under test, may call.
#define SOFTGPU_EXPORT __attribute__((visibility("default")))

namespace softgpu {

// In which order the blocks of a grid run, and the threads of a block between two barriers.
enum class ThreadOrder { Forward, Reverse, Shuffle };

// When the work of a stream runs.
enum class StreamOrder {
    Eager,   // at once
    Lazy,    // when the host waits for it, as late as possible
    Random,  // any amount of it at any call, as far as events allow
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

// Read once. A value that is not understood ends the process: a misspelt order must not test the default one.
SOFTGPU_EXPORT const Settings &settings();

// Pseudo-random words (xorshift64*), the same for the same seed.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull | 1) {}
    // Uniform in 0 .. count - 1.
    uint64_t below(uint64_t count);

  private:
    uint64_t state_;
};

// A mistake of the program under test. Each text is printed once, and appended to the file SOFTGPU_REPORT; with
// SOFTGPU_STRICT=1 it ends the process.
SOFTGPU_EXPORT void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Something that the software GPU lacks or that cannot go on: printed, then abort.
[[noreturn]] SOFTGPU_EXPORT void give_up(const char *format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace softgpu
