// One threadgroup at a time: its threads as fibers, its barriers and simdgroups.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "fiber.h"
#include "kernel.h"
#include "runtime.h"

namespace emulator {

constexpr int kSimdWidth = 32;
constexpr int64_t kMostThreads = 1024, kMostThreadgroupBytes = 32768;
constexpr size_t kGuardBytes = 4096;     // around every buffer
constexpr unsigned char kPoison = 0xff;  // NaN in every dtype

// Memory between canaries. What a kernel writes there is found afterwards, what it reads is NaN.
class Guarded {
  public:
    explicit Guarded(size_t size);
    unsigned char* data() { return memory_.get() + before_; }
    size_t size() const { return size_; }
    bool intact() const;

  private:
    size_t size_, before_;
    std::unique_ptr<unsigned char[]> memory_;
};

class Group {
  public:
    Group(const Kernel& kernel, const Launch& launch, const uintptr_t* buffers, uint64_t seed,
          Schedule schedule);
    ~Group();
    Group(const Group&) = delete;

    // Runs the threadgroup; throws std::runtime_error for what a device could not do.
    void run(const Vector& position);

    // Called by a running thread.
    void wait_at_barrier(const char* file, int line);
    float wait_for_simd_sum(float value, const char* file, int line);

  private:
    enum class State { ready, at_barrier, at_simd, done };
    struct Lane {
        Fiber fiber;
        Thread thread;
        State state;
        const char* file;
        int line;
        float value;
        uint32_t waits[2];              // at barriers and simdgroup sums so far
        int64_t sync[2], simd_sync[2];  // what ThreadSanitizer sees released there, in lane 0
    };

    static void begin();
    void yield(State state, const char* file, int line);
    bool run_ready(uint32_t simdgroup);
    bool finish_simd_sum(uint32_t simdgroup);
    bool release_barrier();
    [[noreturn]] void fail_stuck() const;
    std::string where(const Lane& lane) const;

    const Kernel& kernel_;
    const Launch& launch_;
    Schedule schedule_;
    std::mt19937_64 random_;
    std::vector<Lane> lanes_;
    std::vector<uint32_t> order_;  // of the simdgroups
    char* stacks_;
    size_t stack_bytes_;
    Guarded memory_;
    Fiber scheduler_;
    uint32_t running_ = 0;
    int64_t ended_ = 0;  // what ThreadSanitizer sees released at a thread's end
};

}  // namespace emulator
