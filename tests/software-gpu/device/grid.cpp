// Runs grids on the CPU: blocks run one after another, and the threads of a block take turns on fibers.
//
// A fiber runs threads one after another until one of them waits for others; only then does another fiber run. A kernel
// without barriers is therefore a plain loop on one fiber. Between two barriers each thread runs without interruption,
// in the order that SOFTGPU_ORDER selects. A kernel that lacks a barrier reads NaNs or old values in some order.
#include <algorithm>
#include <cstring>
#include <deque>
#include <numeric>
#include <unordered_map>
#include <vector>

#include "fiber.h"
#include "kernels.h"
#include "shared_memory.h"

namespace softgpu {
namespace {

constexpr unsigned WARP = 32;

enum class State : uint8_t { NotStarted, Ready, AtBarrier, AtShuffle, Finished };

class Grid {
  public:
    void run(const Kernel &kernel, Shape grid, Shape block, size_t dynamic_shared, void **parameters);

    // Called by the running thread.
    void barrier();
    uint64_t exchange(uint64_t value, unsigned mask, int from_lane);
    int lane() const { return int(current_->thread % WARP); }
    void *dynamic_shared();
    // The body of every fiber.
    [[noreturn]] void run_threads();

  private:
    void run_block();
    void poison_shared(const SharedMemory &memory);
    Fiber *next_fiber();
    Fiber *fiber_for_unstarted();
    void release_barrier();
    void release_warp(unsigned thread);
    void wait(State state);
    void make_current(unsigned thread) const;
    std::vector<unsigned> order(unsigned count);

    const Kernel *kernel_ = nullptr;
    void **parameters_ = nullptr;
    Shape block_{};
    unsigned threads_ = 0;             // threads of a block
    std::vector<unsigned> order_;      // start order of the threads
    unsigned started_ = 0, finished_ = 0;
    std::vector<State> states_;
    std::vector<Fiber *> fiber_of_;    // by thread, once it has started
    std::deque<Fiber *> ready_;
    std::vector<Fiber *> idle_;
    Fiber *current_ = nullptr;
    // Values that lanes exchange, in two copies: a lane may reach the next shuffle before another lane has read this
    // one's value.
    std::vector<uint64_t> exchanged_[2];
    std::vector<uint8_t> exchanges_;   // by thread: parity of its exchanges
    std::vector<char> dynamic_shared_;
    bool shared_used_ = false;         // the last block may have used shared memory
    Random random_{settings().thread_seed};
};

Grid &device_grid() {
    static auto *grid = new Grid;
    return *grid;
}

std::vector<unsigned> Grid::order(unsigned count) {
    std::vector<unsigned> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (settings().threads == ThreadOrder::Reverse) std::reverse(numbers.begin(), numbers.end());
    if (settings().threads == ThreadOrder::Shuffle)
        for (unsigned i = count; i > 1; i--) std::swap(numbers[i - 1], numbers[random_.below(i)]);
    return numbers;
}

void Grid::run(const Kernel &kernel, Shape grid, Shape block, size_t dynamic_shared, void **parameters) {
    kernel_ = &kernel;
    parameters_ = parameters;
    block_ = block;
    threads_ = block.count();
    fiber_of_.resize(threads_);
    exchanges_.assign(threads_, 0);
    for (auto &values : exchanged_) values.resize(threads_);
    dynamic_shared_.resize(dynamic_shared + 16);
    softgpu_block_dim = {block.x, block.y, block.z};
    softgpu_grid_dim = {grid.x, grid.y, grid.z};
    const SharedMemory memory = shared_memory(kernel);
    shared_used_ = true;  // by another kernel
    for (const unsigned number : order(grid.count())) {
        softgpu_block = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
        order_ = order(threads_);
        poison_shared(memory);
        run_block();
    }
}

// Fills shared memory with NaNs, unless the last block had no barrier or shuffle: such a kernel has no use for shared
// memory.
void Grid::poison_shared(const SharedMemory &memory) {
    if (!shared_used_ || !settings().poison) return;
    if (memory.data) memset(memory.data, 0xFF, memory.bytes);
    memset(dynamic_shared_.data(), 0xFF, dynamic_shared_.size());
    shared_used_ = false;
}

void Grid::run_block() {
    states_.assign(threads_, State::NotStarted);
    started_ = finished_ = 0;
    ready_.clear();
    while (finished_ < threads_) {
        current_ = next_fiber();
        if (current_) current_->resume();
        else release_barrier();
    }
}

// The fiber that runs next, or null if all unfinished threads wait.
Fiber *Grid::next_fiber() {
    const bool more = started_ < threads_;
    if (ready_.empty()) return more ? fiber_for_unstarted() : nullptr;
    size_t at = 0;
    if (settings().threads == ThreadOrder::Shuffle) at = random_.below(ready_.size() + more);
    if (at == ready_.size()) return fiber_for_unstarted();
    Fiber *fiber = ready_[at];
    ready_.erase(ready_.begin() + long(at));
    make_current(fiber->thread);
    return fiber;
}

Fiber *Grid::fiber_for_unstarted() {
    if (idle_.empty()) return new Fiber([] { device_grid().run_threads(); });
    Fiber *fiber = idle_.back();
    idle_.pop_back();
    return fiber;
}

void Grid::run_threads() {
    Fiber *fiber = current_;
    fiber->entered();
    for (;;) {
        while (started_ < threads_) {
            const unsigned thread = order_[started_++];
            fiber->thread = thread;
            fiber_of_[thread] = fiber;
            make_current(thread);
            kernel_->run_thread(parameters_);
            states_[thread] = State::Finished;
            finished_++;
            // The other lanes of its warp may wait for this thread only.
            release_warp(thread);
        }
        idle_.push_back(fiber);
        fiber->suspend();
    }
}

void Grid::make_current(unsigned thread) const {
    softgpu_thread = {thread % block_.x, thread / block_.x % block_.y, thread / block_.x / block_.y};
}

void Grid::wait(State state) {
    shared_used_ = true;
    Fiber *fiber = current_;
    states_[fiber->thread] = state;
    if (state == State::AtShuffle) release_warp(fiber->thread);
    fiber->suspend();
}

void Grid::barrier() { wait(State::AtBarrier); }

void Grid::release_barrier() {
    const auto waiting = unsigned(std::count(states_.begin(), states_.end(), State::AtBarrier));
    if (waiting + finished_ < threads_) give_up("%s: some threads wait at a barrier, others at a shuffle", kernel_->name);
    if (finished_ > 0) fault("%s: a barrier that %u of %u threads never reach", kernel_->name, finished_, threads_);
    for (const unsigned thread : order_) {
        if (states_[thread] != State::AtBarrier) continue;
        states_[thread] = State::Ready;
        ready_.push_back(fiber_of_[thread]);
    }
}

// Resumes the lanes of a warp after all have arrived, before all other threads, so that a kernel that relies on other
// warps fails.
void Grid::release_warp(unsigned thread) {
    const unsigned first = thread / WARP * WARP, end = std::min(first + WARP, threads_);
    unsigned waiting = 0, finished = 0;
    for (unsigned lane = first; lane < end; lane++) {
        waiting += states_[lane] == State::AtShuffle;
        finished += states_[lane] == State::Finished;
    }
    if (waiting == 0 || waiting + finished < end - first) return;
    if (finished > 0) fault("%s: a shuffle that %u lanes of a warp never reach", kernel_->name, finished);
    const bool reverse = settings().threads == ThreadOrder::Reverse;
    for (unsigned i = first; i < end; i++) {
        const unsigned lane = reverse ? i : first + end - 1 - i;
        if (states_[lane] != State::AtShuffle) continue;
        states_[lane] = State::Ready;
        ready_.push_front(fiber_of_[lane]);
    }
}

uint64_t Grid::exchange(uint64_t value, unsigned mask, int from_lane) {
    const unsigned thread = current_->thread;
    if (mask != 0xFFFFFFFFu) give_up("%s: shuffles of some lanes only are not implemented", kernel_->name);
    auto &values = exchanged_[exchanges_[thread] ^= 1];
    values[thread] = value;
    wait(State::AtShuffle);
    const unsigned source = thread / WARP * WARP + unsigned(from_lane);
    return source < threads_ ? values[source] : value;
}

void *Grid::dynamic_shared() {
    shared_used_ = true;
    const auto at = reinterpret_cast<uintptr_t>(dynamic_shared_.data());
    return reinterpret_cast<void *>((at + 15) / 16 * 16);
}

std::unordered_map<std::string, Kernel> &registry() {
    static auto *all = new std::unordered_map<std::string, Kernel>;
    return *all;
}

}  // namespace

void register_kernel(const Kernel &kernel) {
    if (!registry().emplace(kernel.name, kernel).second) give_up("two kernels are called %s", kernel.name);
}

const Kernel *find_kernel(const std::string &name) {
    const auto found = registry().find(name);
    return found == registry().end() ? nullptr : &found->second;
}

void run_grid(const Kernel &kernel, Shape grid, Shape block, size_t dynamic_shared, void **parameters) {
    device_grid().run(kernel, grid, block, dynamic_shared, parameters);
}

}  // namespace softgpu

softgpu_index softgpu_thread, softgpu_block, softgpu_block_dim, softgpu_grid_dim;

void softgpu_barrier() { softgpu::device_grid().barrier(); }
int softgpu_lane() { return softgpu::device_grid().lane(); }
uint64_t softgpu_exchange(uint64_t value, unsigned mask, int from_lane) { return softgpu::device_grid().exchange(value, mask, from_lane); }
void *softgpu_dynamic_shared() { return softgpu::device_grid().dynamic_shared(); }
