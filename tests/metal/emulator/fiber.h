// Threads of a threadgroup as fibers: each has a stack of its own, and runs until it yields.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && !defined(FW_UCONTEXT)
#define FW_ASSEMBLY 1
#else
#include <ucontext.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FW_ASAN 1
#include <sanitizer/common_interface_defs.h>
#endif
#endif
#ifdef FW_TSAN  // the runtime itself is not instrumented
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {

#ifdef FW_ASSEMBLY
extern "C" void fw_switch(void** save, void* to);
#endif

// Where a fiber, or the scheduler, goes on.
struct Fiber {
#ifdef FW_ASSEMBLY
    void* stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    char* stack = nullptr;  // none for the scheduler
    size_t size = 0;
#ifdef FW_ASAN
    void* fake_stack = nullptr;
#endif
#ifdef FW_TSAN
    void* tsan = nullptr;
#endif
};

// Makes `fiber`, which has a stack, begin with `entry`; it never returns from there.
void prepare(Fiber& fiber, void (*entry)());

// Leaves `from` for `to`. `last`: `from` is never entered again.
void switch_to(Fiber& from, Fiber& to, bool last = false);

// Called first thing by `entry`, with the fiber that it was entered from.
void entered(Fiber& self, Fiber& from);

}  // namespace emulator
