#include "cpu/isa/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

namespace fusewright::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa newest_supported() {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512cd");
    return avx2 && avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
    return Isa::baseline;
#endif
}

// A wish for more than the machine has is met with what it has. Unknown names are refused in
// Python: this runs while the library loads, where an exception ends the process.
Isa choose() {
    const Isa newest = newest_supported();
    if (const char* wish = std::getenv("FUSEWRIGHT_CPU_ISA")) {
        for (int i = 0; i < 3; ++i) {
            if (std::strcmp(wish, kNames[i]) == 0) {
                return std::min(newest, static_cast<Isa>(i));
            }
        }
    }
    return newest;
}

}  // namespace

Isa chosen_isa() {
    static const Isa chosen = choose();
    return chosen;
}

}  // namespace fusewright::cpu

// Read by the Python side, through ctypes, for `fusewright doctor`.
extern "C" __attribute__((visibility("default"))) const char* fusewright_build_info() {
    using namespace fusewright::cpu;
    static const std::string info =
        std::string("version=" FUSEWRIGHT_VERSION "\ncompiler=" __VERSION__ "\nisa=") +
        kNames[static_cast<int>(chosen_isa())];
    return info.c_str();
}
