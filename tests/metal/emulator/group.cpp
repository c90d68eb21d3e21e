#include "group.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

namespace emulator {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
thread_local Group* current = nullptr;

size_t rounded(size_t size) { return (size + 15) / 16 * 16; }

}  // namespace

// AddressSanitizer has better guards than ours, if the memory ends where the tensor ends.
#ifdef FW_ASAN
Guarded::Guarded(size_t size)
    : size_(size), before_(0), memory_(new unsigned char[std::max<size_t>(size, 1)]) {}
bool Guarded::intact() const { return true; }
#else
Guarded::Guarded(size_t size)
    : size_(size), before_(kGuardBytes), memory_(new unsigned char[size + 2 * kGuardBytes]) {
    std::memset(memory_.get(), kPoison, size + 2 * kGuardBytes);
}

bool Guarded::intact() const {
    const unsigned char* m = memory_.get();
    const auto poisoned = [](unsigned char c) { return c == kPoison; };
    return std::all_of(m, m + before_, poisoned) &&
           std::all_of(m + before_ + size_, m + size_ + 2 * kGuardBytes, poisoned);
}
#endif

Group::Group(const Kernel& kernel, const Launch& launch, const uintptr_t* buffers, uint64_t seed,
             Schedule schedule)
    : kernel_(kernel),
      launch_(launch),
      schedule_(schedule),
      random_(seed),
      lanes_(launch.threads[0] * launch.threads[1] * launch.threads[2]),
      order_((lanes_.size() + kSimdWidth - 1) / kSimdWidth),
      stack_bytes_(lanes_.size() * kStackBytes),
      memory_(launch.threadgroup_bytes) {
    void* stacks = mmap(nullptr, stack_bytes_, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a threadgroup");
    stacks_ = static_cast<char*>(stacks);
    const auto part = [](const int64_t* v) {
        return Vector{uint32_t(v[0]), uint32_t(v[1]), uint32_t(v[2])};
    };
    const Vector threads = part(launch.threads), groups = part(launch.groups);
    for (uint32_t i = 0; i < lanes_.size(); ++i) {
        Lane& lane = lanes_[i];
        lane.fiber.stack = stacks_ + i * kStackBytes;
        lane.fiber.size = kStackBytes;
        Thread& t = lane.thread;
        t.buffers = buffers;
        t.threadgroup = reinterpret_cast<uintptr_t>(memory_.data());
        t.thread_position_in_threadgroup = {i % threads.x, i / threads.x % threads.y,
                                            i / threads.x / threads.y};
        t.threadgroups_per_grid = groups;
        t.threads_per_threadgroup = threads;
        t.threads_per_grid = {groups.x * threads.x, groups.y * threads.y, groups.z * threads.z};
        t.thread_index_in_threadgroup = i;
        t.thread_index_in_simdgroup = i % kSimdWidth;
        t.simdgroup_index_in_threadgroup = i / kSimdWidth;
        t.simdgroups_per_threadgroup = order_.size();
    }
    std::iota(order_.begin(), order_.end(), 0u);
    if (schedule == Schedule::reversed) std::reverse(order_.begin(), order_.end());
#ifdef FW_TSAN
    scheduler_.tsan = __tsan_get_current_fiber();
#endif
}

Group::~Group() { munmap(stacks_, stack_bytes_); }

void Group::run(const Vector& position) {
    std::memset(memory_.data(), kPoison, memory_.size());
    const Vector threads = lanes_[0].thread.threads_per_threadgroup;
    for (Lane& lane : lanes_) {
        Thread& t = lane.thread;
        const Vector& in = t.thread_position_in_threadgroup;
        t.threadgroup_position_in_grid = position;
        t.thread_position_in_grid = {position.x * threads.x + in.x, position.y * threads.y + in.y,
                                     position.z * threads.z + in.z};
        lane.state = State::ready;
        lane.waits[0] = lane.waits[1] = 0;
        prepare(lane.fiber, begin);
    }
    current = this;
    // Each simdgroup goes as far as it can before the next one runs, as on a device it may; in
    // random order they also take turns.
    for (;;) {
        if (schedule_ == Schedule::random) std::shuffle(order_.begin(), order_.end(), random_);
        bool progress = false;
        for (const uint32_t simdgroup : order_) {
            bool again = true;
            while (again && run_ready(simdgroup)) {
                progress = true;
                again = finish_simd_sum(simdgroup) && schedule_ != Schedule::random;
            }
        }
        if (progress) continue;
        const auto done = [](const Lane& lane) { return lane.state == State::done; };
        if (std::all_of(lanes_.begin(), lanes_.end(), done)) break;
        if (!release_barrier()) fail_stuck();
    }
#ifdef FW_TSAN
    __tsan_acquire(&ended_);
    for (Lane& lane : lanes_) __tsan_destroy_fiber(lane.fiber.tsan);
#endif
    if (!memory_.intact()) {
        throw std::runtime_error("wrote past the " + std::to_string(memory_.size()) +
                                 " bytes of threadgroup memory");
    }
}

void Group::begin() {
    Group& group = *current;
    Lane& lane = group.lanes_[group.running_];
    entered(lane.fiber, group.scheduler_);
    group.kernel_.run(lane.thread);
    lane.state = State::done;
#ifdef FW_TSAN
    __tsan_release(&group.ended_);
#endif
    switch_to(lane.fiber, group.scheduler_, true);
}

void Group::yield(State state, const char* file, int line) {
    Lane& lane = lanes_[running_];
    lane.state = state, lane.file = file, lane.line = line;
#ifdef FW_TSAN
    // Two in turn: who has passed one barrier may arrive at the next before others leave the first.
    const uint32_t turn = lane.waits[state == State::at_simd]++ % 2;
    void* sync = &lanes_[0].sync[turn];
    if (state == State::at_simd) sync = &lanes_[running_ / kSimdWidth * kSimdWidth].simd_sync[turn];
    __tsan_release(sync);
#endif
    switch_to(lane.fiber, scheduler_);
#ifdef FW_TSAN
    __tsan_acquire(sync);
#endif
}

void Group::wait_at_barrier(const char* file, int line) { yield(State::at_barrier, file, line); }

float Group::wait_for_simd_sum(float value, const char* file, int line) {
    Lane& lane = lanes_[running_];
    lane.value = value;
    yield(State::at_simd, file, line);
    return lane.value;
}

// Runs what is ready of a simdgroup. False if nothing is.
bool Group::run_ready(uint32_t simdgroup) {
    const uint32_t begin = simdgroup * kSimdWidth;
    const uint32_t end = std::min<uint32_t>(begin + kSimdWidth, lanes_.size());
    bool any = false;
    for (uint32_t i = begin; i < end; ++i) {
        const uint32_t lane = schedule_ == Schedule::reversed ? begin + end - 1 - i : i;
        if (lanes_[lane].state != State::ready) continue;
        running_ = lane;
        any = true;
        switch_to(scheduler_, lanes_[lane].fiber);
    }
    return any;
}

// The sum of a simdgroup, if all of its threads have arrived at the same one.
bool Group::finish_simd_sum(uint32_t simdgroup) {
    const size_t begin = simdgroup * kSimdWidth;
    const size_t end = std::min<size_t>(begin + kSimdWidth, lanes_.size());
    const Lane& first = lanes_[begin];
    float sum = 0;
    for (size_t i = begin; i < end; ++i) {
        const Lane& lane = lanes_[i];
        if (lane.state != State::at_simd || lane.line != first.line || lane.file != first.file) {
            return false;
        }
        sum += lane.value;
    }
    for (size_t i = begin; i < end; ++i) {
        lanes_[i].value = sum;
        lanes_[i].state = State::ready;
    }
    return true;
}

bool Group::release_barrier() {
    const Lane& first = lanes_[0];
    for (const Lane& lane : lanes_) {
        if (lane.state != State::at_barrier || lane.line != first.line || lane.file != first.file) {
            return false;
        }
    }
    for (Lane& lane : lanes_) lane.state = State::ready;
    return true;
}

std::string Group::where(const Lane& lane) const {
    const std::string thread = "thread " + std::to_string(&lane - lanes_.data());
    if (lane.state == State::done) return thread + " has ended";
    const char* what = lane.state == State::at_simd ? "simd_sum" : "threadgroup_barrier";
    return thread + " waits at " + what + ", " + lane.file + ":" + std::to_string(lane.line);
}

void Group::fail_stuck() const {
    const auto elsewhere = [&](const Lane& lane) {
        const Lane& first = lanes_[0];
        return lane.state != first.state || (lane.state != State::done && lane.line != first.line);
    };
    const auto other = std::find_if(lanes_.begin(), lanes_.end(), elsewhere);
    const Lane& second = other == lanes_.end() ? lanes_.back() : *other;
    throw std::runtime_error("divergent flow: " + where(lanes_[0]) + ", " + where(second));
}

__attribute__((visibility("default"))) void barrier(const char* file, int line) {
    current->wait_at_barrier(file, line);
}

__attribute__((visibility("default"))) float simd_sum(float value, const char* file, int line) {
    return current->wait_for_simd_sum(value, file, line);
}

}  // namespace emulator
