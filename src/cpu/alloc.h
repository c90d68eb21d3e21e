// Fresh memory for large results.
#pragma once

#include <cstdint>

#include "cpu/tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusewright::cpu::FW_ISA {

constexpr size_t kLarge = size_t{32} << 20;

// The first touch of a fresh tensor costs a page fault every 4 KiB, for large ones more than the
// kernel's own work. Huge pages, where the system leaves the choice to programs, make that 2 MiB.
inline void prefer_huge_pages(const Tensor& t) {
#if defined(__linux__)
    constexpr uintptr_t kHuge = uintptr_t{2} << 20;
    const size_t bytes = t.numel() * t.element_size();
    if (bytes < kLarge) return;
    const auto start = reinterpret_cast<uintptr_t>(t.data_ptr());
    const uintptr_t begin = (start + kHuge - 1) / kHuge * kHuge;
    const uintptr_t end = (start + bytes) / kHuge * kHuge;
    // Advice that is refused changes nothing.
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)t;
#endif
}

// Results far larger than a core's caches are not found there by whoever reads them: written past
// the caches, they are not read first and push nothing out. The pages of still larger ones are
// always fresh (allocators return them to the system), and in the cache since the system cleared
// them.
inline bool worth_streaming(const Tensor& t) {
    const auto bytes = static_cast<size_t>(t.numel()) * t.element_size();
    return bytes >= size_t{8} << 20 && bytes < kLarge;
}

inline Tensor fresh(const Tensor& x, torch::headeronly::IntHeaderOnlyArrayRef shape,
                    std::optional<ScalarType> dtype = std::nullopt) {
    Tensor t = fusewright::fresh(x, shape, dtype);
    prefer_huge_pages(t);
    return t;
}

// With the strides of x, as torch.empty_like.
inline Tensor fresh_like(const Tensor& x) {
    Tensor t = fusewright::fresh_like(x);
    prefer_huge_pages(t);
    return t;
}

}  // namespace fusewright::cpu::FW_ISA
