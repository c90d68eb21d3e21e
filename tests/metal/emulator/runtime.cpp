#include "runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "group.h"

namespace emulator {
namespace {

std::map<std::string, const Kernel*>& kernels() {
    static std::map<std::string, const Kernel*> all;
    return all;
}

[[noreturn]] void fail(const Launch& launch, const std::string& text) {
    throw std::runtime_error("[" + launch.kernel + "] " + text);
}

void check(const Launch& launch, const Kernel& kernel) {
    const int64_t threads = launch.threads[0] * launch.threads[1] * launch.threads[2];
    const int64_t most = std::min<int64_t>(kernel.threads, kMostThreads);
    if (threads < 1 || threads > most) {
        fail(launch, std::to_string(threads) + " threads in a threadgroup, must be from 1 to " +
                         std::to_string(most));
    }
    for (const int64_t groups : launch.groups) {
        if (groups < 1 || groups >= int64_t{1} << 32) {
            fail(launch, std::to_string(groups) + " threadgroups, must be from 1 to 2^32 - 1");
        }
    }
    if (launch.threadgroup_bytes > kMostThreadgroupBytes || launch.threadgroup_bytes % 16 != 0) {
        fail(launch, std::to_string(launch.threadgroup_bytes) +
                         " bytes of threadgroup memory, must be a multiple of 16 up to " +
                         std::to_string(kMostThreadgroupBytes));
    }
    if (kernel.threadgroup && launch.threadgroup_bytes == 0) {
        fail(launch, "takes threadgroup memory, and none is set");
    }
    uint32_t bound = uint32_t{1} << launch.args_index;
    for (const Binding& b : launch.buffers) bound |= uint32_t{1} << b.index;
    if (bound != kernel.buffers) {
        for (int i = 0; i < kMostBuffers; ++i) {
            if ((kernel.buffers & ~bound) >> i & 1) {
                fail(launch, "buffer " + std::to_string(i) + " is not bound");
            }
            if ((bound & ~kernel.buffers) >> i & 1) {
                fail(launch, "has no buffer " + std::to_string(i));
            }
        }
    }
}

}  // namespace

Schedule schedule_of(const std::string& name) {
    if (name == "in_order") return Schedule::in_order;
    if (name == "reversed") return Schedule::reversed;
    if (name == "random") return Schedule::random;
    throw std::invalid_argument("no schedule is called " + name);
}

void add_kernels(const Kernel* table) {
    for (; table->name != nullptr; ++table) kernels()[table->name] = table;
}

void load_library(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    void* table = dlsym(library, kTableSymbol);
    if (table == nullptr) throw std::runtime_error(path + " holds no kernels");
    add_kernels(reinterpret_cast<KernelTable>(table)());
}

void launch(const Launch& launch, const Options& options) {
    const auto found = kernels().find(launch.kernel);
    if (found == kernels().end()) fail(launch, "there is no such kernel");
    const Kernel& kernel = *found->second;
    check(launch, kernel);

    // What is bound twice, such as one tensor as two arguments, is one memory. So is what overlaps.
    std::map<const char*, std::unique_ptr<Guarded>> copies;
    Guarded nothing(0);
    uintptr_t buffers[kMostBuffers] = {};
    const auto covering = [&](const char* data, int64_t size) {
        auto next = copies.upper_bound(data);
        if (next != copies.begin()) {
            auto before = std::prev(next);
            if (data + size <= before->first + before->second->size()) return before;
        }
        return copies.end();
    };
    std::vector<const Binding*> largest_first;
    for (const Binding& b : launch.buffers) largest_first.push_back(&b);
    std::stable_sort(largest_first.begin(), largest_first.end(),
                     [](const Binding* a, const Binding* b) { return a->size > b->size; });
    for (const Binding* b : largest_first) {
        const char* data = static_cast<const char*>(b->data);
        if (b->size == 0) {
            buffers[b->index] = reinterpret_cast<uintptr_t>(nothing.data());
            continue;
        }
        auto place = covering(data, b->size);
        if (place == copies.end()) {
            place = copies.emplace(data, std::make_unique<Guarded>(b->size)).first;
            std::memcpy(place->second->data(), data, b->size);
        }
        buffers[b->index] =
            reinterpret_cast<uintptr_t>(place->second->data()) + (data - place->first);
    }
    Guarded args(launch.args.size());
    std::memcpy(args.data(), launch.args.data(), launch.args.size());
    buffers[launch.args_index] = reinterpret_cast<uintptr_t>(args.data());

    const int64_t total = launch.groups[0] * launch.groups[1] * launch.groups[2];
    std::vector<int64_t> order(total);
    for (int64_t i = 0; i < total; ++i) order[i] = i;
    std::mt19937_64 random(options.seed);
    if (options.schedule == Schedule::reversed) std::reverse(order.begin(), order.end());
    if (options.schedule == Schedule::random) std::shuffle(order.begin(), order.end(), random);
#ifdef FW_TSAN
    // What one worker runs is ordered by it; so neighbours go to different ones.
    const int workers = static_cast<int>(std::min<int64_t>(8, total));
#else
    const int workers = static_cast<int>(std::min<int64_t>(options.workers, total));
#endif
    std::atomic<bool> stop{false};
    std::mutex mutex;
    std::string error;
    const auto work = [&](int worker, uint64_t seed) {
        try {
            Group group(kernel, launch, buffers, seed, options.schedule);
            for (int64_t i = worker; i < total && !stop; i += workers) {
                const uint64_t at = order[i], x = launch.groups[0], y = launch.groups[1];
                group.run({uint32_t(at % x), uint32_t(at / x % y), uint32_t(at / x / y)});
            }
        } catch (const std::exception& caught) {
            stop = true;
            const std::lock_guard<std::mutex> lock(mutex);
            error = caught.what();
        }
    };
    std::vector<std::thread> threads;
    for (int i = 1; i < workers; ++i) threads.emplace_back(work, i, random());
    work(0, random());
    for (std::thread& t : threads) t.join();
    if (!error.empty()) fail(launch, error);
    if (!nothing.intact()) fail(launch, "wrote to a tensor that is absent or empty");
    for (const auto& [data, copy] : copies) {
        if (!copy->intact()) {
            int index = -1;
            for (const Binding& b : launch.buffers) {
                if (b.data == data) index = b.index;
            }
            fail(launch, "wrote outside buffer " + std::to_string(index) + " of " +
                             std::to_string(copy->size()) + " bytes");
        }
        std::memcpy(const_cast<char*>(data), copy->data(), copy->size());
    }
}

}  // namespace emulator
