#include "fiber.h"

#include <sys/mman.h>

#include "settings.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "softgpu_switch is written for x86-64"
#endif

// Saves the registers that a call must preserve, stores the stack pointer at `save`, and continues where `load` was
// saved.
extern "C" void softgpu_switch(void **save, void *load);
asm(R"(
	.text
	.globl softgpu_switch
	.hidden softgpu_switch
	.type softgpu_switch,@function
softgpu_switch:
	pushq %rbx
	pushq %rbp
	pushq %r12
	pushq %r13
	pushq %r14
	pushq %r15
	movq %rsp, (%rdi)
	movq %rsi, %rsp
	popq %r15
	popq %r14
	popq %r13
	popq %r12
	popq %rbp
	popq %rbx
	ret
	.size softgpu_switch, .-softgpu_switch
)");

namespace softgpu {
namespace {

constexpr size_t PAGE = 4096;
constexpr size_t STACK = 256 << 10;
constexpr int SAVED_REGISTERS = 6;

}  // namespace

Fiber::Fiber(void (*body)()) {
    const int protection = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *memory = mmap(nullptr, PAGE + STACK, protection, flags, -1, 0);
    if (memory == MAP_FAILED) give_up("no memory for the stack of a thread");
    // A kernel that overflows its stack must crash, not write elsewhere.
    mprotect(memory, PAGE, PROT_NONE);
    stack_ = static_cast<char *>(memory) + PAGE;
    auto **top = reinterpret_cast<void **>(stack_ + STACK);
    *--top = nullptr;  // the return address of `body`, which also aligns the stack as after a call
    *--top = reinterpret_cast<void *>(body);
    for (int i = 0; i < SAVED_REGISTERS; i++) *--top = nullptr;
    stack_pointer_ = top;
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&resumer_shadow_, stack_, STACK);
#endif
    softgpu_switch(&resumer_, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(resumer_shadow_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fiber_shadow_, resumer_stack_, resumer_stack_bytes_);
#endif
    softgpu_switch(&stack_pointer_, resumer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber_shadow_, &resumer_stack_, &resumer_stack_bytes_);
#endif
}

void Fiber::entered() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &resumer_stack_, &resumer_stack_bytes_);
#endif
}

}  // namespace softgpu
