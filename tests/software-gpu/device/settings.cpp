#include "settings.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>

namespace softgpu {
namespace {

std::string variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

uint64_t number(const char *name, const std::string &text) {
    char *end = nullptr;
    const uint64_t value = strtoull(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0') give_up("%s: `%s` is not a number", name, text.c_str());
    return value;
}

bool flag(const char *name, bool otherwise) {
    const std::string value = variable(name);
    if (value.empty()) return otherwise;
    if (value != "0" && value != "1") give_up("%s: expected 0 or 1, got `%s`", name, value.c_str());
    return value == "1";
}

// Accepts `WORD` or `WORD:SEED`.
bool is_word(const char *name, const std::string &value, const std::string &word, uint64_t &seed) {
    if (value == word) return true;
    if (value.rfind(word + ":", 0) != 0) return false;
    seed = number(name, value.substr(word.size() + 1));
    return true;
}

void read_orders(Settings &all) {
    const std::string threads = variable("SOFTGPU_ORDER"), streams = variable("SOFTGPU_STREAMS");
    if (threads.empty() || threads == "forward") all.threads = ThreadOrder::Forward;
    else if (threads == "reverse") all.threads = ThreadOrder::Reverse;
    else if (is_word("SOFTGPU_ORDER", threads, "shuffle", all.thread_seed)) all.threads = ThreadOrder::Shuffle;
    else give_up("SOFTGPU_ORDER: expected forward, reverse or shuffle:SEED, got `%s`", threads.c_str());
    if (streams.empty() || streams == "eager") all.streams = StreamOrder::Eager;
    else if (streams == "lazy") all.streams = StreamOrder::Lazy;
    else if (is_word("SOFTGPU_STREAMS", streams, "random", all.stream_seed)) all.streams = StreamOrder::Random;
    else give_up("SOFTGPU_STREAMS: expected eager, lazy or random:SEED, got `%s`", streams.c_str());
}

Settings read_settings() {
    Settings all;
    read_orders(all);
    if (const auto text = variable("SOFTGPU_SMS"); !text.empty()) all.multiprocessors = int(number("SOFTGPU_SMS", text));
    if (const auto text = variable("SOFTGPU_MEMORY"); !text.empty()) all.memory = number("SOFTGPU_MEMORY", text);
    if (const auto text = variable("SOFTGPU_FAIL_AT"); !text.empty()) all.failing_launch = number("SOFTGPU_FAIL_AT", text);
    all.pools = !flag("SOFTGPU_NO_POOLS", false);
    all.accumulating_engines = !flag("SOFTGPU_NO_ACCUMULATE", false);
    all.f64_convolutions = flag("SOFTGPU_F64", false);
    all.poison = flag("SOFTGPU_POISON", true);
    all.strict = flag("SOFTGPU_STRICT", false);
    all.verbose = flag("SOFTGPU_VERBOSE", false);
    all.report = variable("SOFTGPU_REPORT");
    return all;
}

}  // namespace

const Settings &settings() {
    static const Settings all = read_settings();
    return all;
}

uint64_t Random::below(uint64_t count) {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Dull >> 16) % count;
}

void fault(const char *format, ...) {
    static std::mutex lock;
    static std::set<std::string> seen;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const std::lock_guard<std::mutex> guard(lock);
    if (!seen.insert(text).second) return;
    fprintf(stderr, "software-gpu: FAULT: %s\n", text);
    if (!settings().report.empty()) {
        FILE *file = fopen(settings().report.c_str(), "a");
        if (!file) give_up("%s: cannot be written", settings().report.c_str());
        fprintf(file, "%s\n", text);
        fclose(file);
    }
    if (settings().strict) abort();
}

void give_up(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("software-gpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    va_end(arguments);
    abort();
}

}  // namespace softgpu
