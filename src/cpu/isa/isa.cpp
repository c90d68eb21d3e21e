#include "cpu/isa/isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>

#include "cpu/export.h"

#if defined(_WIN32)
#include <immintrin.h>
#include <intrin.h>
#endif

namespace fusewright::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

#if defined(_WIN32)
// Clang's __builtin_cpu_supports needs a runtime library that is not linked there.
__attribute__((target("xsave"))) Isa newest_supported() {
    int words[4];  // eax, ebx, ecx, edx
    const auto bits = [&](int word, std::initializer_list<int> wanted) {
        return std::all_of(wanted.begin(), wanted.end(),
                           [&](int bit) { return words[word] >> bit & 1; });
    };
    __cpuid(words, 0);
    if (words[0] < 7) return Isa::baseline;
    __cpuid(words, 1);
    if (!bits(2, {12, 27, 28, 29})) return Isa::baseline;  // fma, osxsave, avx, f16c
    const auto saved = _xgetbv(0);                         // by the system, between threads
    __cpuidex(words, 7, 0);
    const bool avx2 = (saved & 0x06) == 0x06 && bits(1, {5});
    const bool avx512 = (saved & 0xe6) == 0xe6 && bits(1, {16, 17, 28, 30, 31});  // f dq cd bw vl
    return avx2 && avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
}
#else
Isa newest_supported() {
#if defined(__x86_64__)
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
#endif

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
FW_EXPORT const char* fusewright_build_info() {
    using namespace fusewright::cpu;
    static const std::string info =
        std::string("version=" FUSEWRIGHT_VERSION "\ncompiler=" __VERSION__ "\nisa=") +
        kNames[static_cast<int>(chosen_isa())];
    return info.c_str();
}
