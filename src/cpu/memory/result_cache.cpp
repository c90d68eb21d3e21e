#include "cpu/memory/result_cache.h"

#include "cpu/export.h"

#if defined(__linux__)

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <mutex>
#include <new>

// Of torch 2.11 and later; null before.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes_ptr, const int64_t* strides_ptr,
    int64_t storage_offset, int32_t dtype, int32_t device_type, int32_t device_index,
    AtenTensorHandle* ret, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* ctx), void* deleter_ctx);

namespace fusewright::cpu {
namespace {

constexpr size_t kStep = size_t{2} << 20;   // a huge page, of which blocks are multiples
constexpr size_t kHot = size_t{256} << 20;  // of the newest blocks, kept from the system
constexpr size_t kDefaultLimit = 1'000'000'000;

// A mapping: a result's, or one of the cache's.
struct Block {
    char* data;
    size_t bytes;
    unsigned forks;        // of the process, before it was mapped
    bool offered = false;  // to the system, which may have taken its pages
    Block* older = nullptr;
};

Block* map(size_t bytes, unsigned forks) {
    const size_t room = bytes + kStep;
    void* const start =
        mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    char* const first = static_cast<char*>(start);
    char* const data = first + -reinterpret_cast<uintptr_t>(start) % kStep;
    if (data > first) munmap(first, data - first);
    munmap(data + bytes, first + room - (data + bytes));
    madvise(data, bytes, MADV_HUGEPAGE);  // refused, it changes nothing
    Block* const block = new (std::nothrow) Block{data, bytes, forks};
    if (block == nullptr) munmap(data, bytes);
    return block;
}

void unmap(Block* newest) {
    while (newest != nullptr) {
        Block* const block = newest;
        newest = block->older;
        munmap(block->data, block->bytes);
        delete block;
    }
}

// A lock that is not waited for without end: in the child of a fork it may be held for ever.
class Attempt {
  public:
    explicit Attempt(std::mutex& mutex) : mutex_(mutex) {
        for (int i = 0; i < 1000 && !(held_ = mutex_.try_lock()); ++i) sched_yield();
    }
    ~Attempt() {
        if (held_) mutex_.unlock();
    }
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;
    explicit operator bool() const { return held_; }

  private:
    std::mutex& mutex_;
    bool held_ = false;
};

class ResultCache {
  public:
    // Never destroyed: results may outlive everything static.
    static ResultCache& instance() {
        static ResultCache* const cache = new ResultCache;
        return *cache;
    }

    // A block of at least so many bytes; null where the system has none.
    Block* take(size_t bytes) {
        const size_t wanted = (bytes + kStep - 1) / kStep * kStep;
        const unsigned forks = forks_;
        if (Block* const block = find(wanted)) return block;
        if (Block* const block = map(wanted, forks)) return block;
        trim(0);  // what is kept counts where the address space is limited
        return map(wanted, forks);
    }

    void give(Block* block) {
        // A fork splits huge pages for good: such a block is slower than a new one.
        if (block->bytes > limit_ || block->forks != forks_) return unmap(block);
        Block* dropped = block;
        if (const Attempt lock(mutex_); lock) {
            block->older = newest_;
            newest_ = block;
            dropped = cut(limit_);
            offer_cold();
        }
        unmap(dropped);
    }

    void trim(size_t bytes) {
        Block* dropped = nullptr;
        if (const Attempt lock(mutex_); lock) dropped = cut(bytes);
        unmap(dropped);
    }

    void set_limit(size_t bytes) {
        limit_ = bytes;
        trim(bytes);
    }

    size_t limit() const { return limit_; }
    size_t kept() const { return kept_; }

  private:
    // The child is not to inherit what nobody uses, nor the parent to copy it at the next write.
    ResultCache() {
        pthread_atfork(
            [] {
                ++instance().forks_;
                instance().trim(0);
            },
            nullptr, nullptr);
    }

    // The smallest block that is at most an eighth larger than wanted, of several the first in
    // memory: a program that repeats its calls then finds each result where it was, and what the
    // caches still hold of it.
    Block* find(size_t wanted) {
        const Attempt lock(mutex_);
        if (!lock) return nullptr;
        Block** best = nullptr;
        for (Block** at = &newest_; *at != nullptr; at = &(*at)->older) {
            const Block& block = **at;
            if (block.bytes < wanted || block.bytes > wanted + wanted / 8) continue;
            if (best == nullptr || block.bytes < (*best)->bytes ||
                (block.bytes == (*best)->bytes && block.data < (*best)->data)) {
                best = at;
            }
        }
        if (best == nullptr) return nullptr;
        Block* const block = *best;
        *best = block->older;
        block->older = nullptr;
        block->offered = false;
        kept_ -= block->bytes;
        return block;
    }

    // Takes the oldest blocks out until what is left has at most so many bytes.
    Block* cut(size_t bytes) {
        Block** at = &newest_;
        size_t sum = 0;
        while (*at != nullptr && sum + (*at)->bytes <= bytes) {
            sum += (*at)->bytes;
            at = &(*at)->older;
        }
        Block* const dropped = *at;
        *at = nullptr;
        kept_ = sum;
        return dropped;
    }

    // Lets the system take the pages of what lies behind the newest blocks when memory is short.
    // They stay until then, and writing to them takes them back without a fault; but to say so
    // interrupts every core, which a block that is soon taken again is spared.
    void offer_cold() {
        size_t sum = 0;
        for (Block* block = newest_; block != nullptr; block = block->older) {
            sum += block->bytes;
            if (sum <= kHot || block->offered) continue;
            madvise(block->data, block->bytes, MADV_FREE);
            block->offered = true;
        }
    }

    std::mutex mutex_;
    Block* newest_ = nullptr;  // then older ones
    std::atomic<size_t> kept_{0};
    std::atomic<size_t> limit_{kDefaultLimit};
    std::atomic<unsigned> forks_{0};
};

}  // namespace

AtenTensorHandle cached_result(size_t bytes, int64_t dim, const int64_t* sizes,
                               const int64_t* strides, int32_t dtype) {
    ResultCache& cache = ResultCache::instance();
    if (torch_from_blob == nullptr || cache.limit() == 0) return nullptr;
    Block* const block = cache.take(bytes);
    if (block == nullptr) return nullptr;
    const auto deleter = [](void*, void* given) {
        ResultCache::instance().give(static_cast<Block*>(given));
    };
    // Where this fails the deleter may have run already: the block is left to it.
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_from_blob(block->data, dim, sizes, strides, 0, dtype, aoti_torch_device_type_cpu(),
                        -1, &handle, aoti_torch_layout_strided(), nullptr, 0, deleter, block));
    return handle;
}

}  // namespace fusewright::cpu

// -1 where torch's allocator has to serve.
FW_EXPORT int64_t fusewright_cache_limit() {
    if (torch_from_blob == nullptr) return -1;
    return static_cast<int64_t>(fusewright::cpu::ResultCache::instance().limit());
}

FW_EXPORT int64_t fusewright_cached_bytes() {
    return static_cast<int64_t>(fusewright::cpu::ResultCache::instance().kept());
}

FW_EXPORT int64_t fusewright_set_cache_limit(int64_t bytes) {
    fusewright::cpu::ResultCache::instance().set_limit(static_cast<size_t>(bytes));
    return fusewright_cached_bytes();
}

FW_EXPORT int64_t fusewright_empty_cache() {
    fusewright::cpu::ResultCache::instance().trim(0);
    return fusewright_cached_bytes();
}

#else

namespace fusewright::cpu {

AtenTensorHandle cached_result(size_t, int64_t, const int64_t*, const int64_t*, int32_t) {
    return nullptr;
}

}  // namespace fusewright::cpu

FW_EXPORT int64_t fusewright_cache_limit() { return -1; }
FW_EXPORT int64_t fusewright_cached_bytes() { return 0; }
FW_EXPORT int64_t fusewright_set_cache_limit(int64_t) { return 0; }
FW_EXPORT int64_t fusewright_empty_cache() { return 0; }

#endif
