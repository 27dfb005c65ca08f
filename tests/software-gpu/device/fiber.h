// Stacks that take turns on one host thread.
#pragma once
#include <cstddef>

namespace softgpu {

class Fiber {
  public:
    // `body` runs on its own stack from the first `resume` on, and must never return.
    explicit Fiber(void (*body)());
    Fiber(const Fiber &) = delete;
    Fiber &operator=(const Fiber &) = delete;

    // Runs the fiber until it suspends itself.
    void resume();
    // Called on the fiber: returns to the caller of `resume`.
    void suspend();
    // Called once on the fiber, before anything else.
    void entered();

    unsigned thread = 0;  // the thread of the block that runs here

  private:
    void *stack_pointer_;
    char *stack_;
    // Used by the resumer.
    void *resumer_ = nullptr;
    // AddressSanitizer keeps a shadow of every stack and must know which one is in use.
    void *fiber_shadow_ = nullptr, *resumer_shadow_ = nullptr;
    const void *resumer_stack_ = nullptr;
    size_t resumer_stack_bytes_ = 0;
};

}  // namespace softgpu
