#include "fiber.h"

#ifdef FW_ASSEMBLY
// The registers that a call preserves, and the stack.
asm(R"(
.text
.globl fw_switch
.hidden fw_switch
.type fw_switch,@function
fw_switch:
    pushq %rbp
    pushq %rbx
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
    popq %rbx
    popq %rbp
    ret
.size fw_switch, .-fw_switch
)");
#endif

namespace emulator {

void prepare(Fiber& fiber, void (*entry)()) {
#ifdef FW_ASSEMBLY
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(fiber.stack) + fiber.size) &
                                          ~uintptr_t{15});
    *--top = nullptr;  // where a return address would be: the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = fiber.size;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
#ifdef FW_TSAN
    fiber.tsan = __tsan_create_fiber(0);
#endif
}

void switch_to(Fiber& from, Fiber& to, bool last) {
#ifdef FW_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.size);
#endif
#ifdef FW_TSAN
    // one thread does not happen before the next because they share a core
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef FW_ASSEMBLY
    fw_switch(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
#ifdef FW_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
    (void)last;
}

void entered(Fiber& self, Fiber& from) {
#ifdef FW_ASAN
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (from.stack == nullptr) {  // the scheduler's own stack, which only now is known
        from.stack = static_cast<char*>(const_cast<void*>(bottom));
        from.size = size;
    }
#endif
    (void)self;
    (void)from;
}

}  // namespace emulator
