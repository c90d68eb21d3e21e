// Memory for large results.
#pragma once

#include <cstdint>

#include "cpu/memory/result_cache.h"
#include "cpu/tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fusewright::cpu::FW_ISA {

constexpr size_t kLarge = size_t{8} << 20;  // far more than a core's caches hold

inline size_t bytes_of(const Tensor& t) { return t.numel() * t.element_size(); }

// Whether the tensor, of which nothing is written yet, lies in memory that was in use before.
// Otherwise the system clears its pages, which leaves them in the caches, as they are touched.
inline bool in_used_memory(const Tensor& t) {
#if defined(__linux__)
    static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t middle = reinterpret_cast<uintptr_t>(t.data_ptr()) + bytes_of(t) / 2;
    unsigned char there = 0;
    return mincore(reinterpret_cast<void*>(middle / page * page), 1, &there) == 0 && there & 1;
#else
    return bytes_of(t) < size_t{32} << 20;  // allocators return larger blocks to the system
#endif
}

// The first touch of a fresh tensor costs a page fault every 4 KiB, for large ones more than the
// kernel's own work. Huge pages, where the system leaves the choice to programs, make that 2 MiB.
inline void prefer_huge_pages(const Tensor& t) {
#if defined(__linux__)
    constexpr uintptr_t kHuge = uintptr_t{2} << 20;
    if (bytes_of(t) < kLarge || in_used_memory(t)) return;
    const auto start = reinterpret_cast<uintptr_t>(t.data_ptr());
    const uintptr_t begin = (start + kHuge - 1) / kHuge * kHuge;
    const uintptr_t end = (start + bytes_of(t)) / kHuge * kHuge;
    // Advice that is refused changes nothing.
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)t;
#endif
}

// Results far larger than a core's caches are not found there by whoever reads them: written past
// the caches, they are not read first and push nothing out. Pages that the system just cleared are
// there already.
inline bool worth_streaming(const Tensor& t) { return bytes_of(t) >= kLarge && in_used_memory(t); }

inline bool is_large(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape) {
    size_t bytes = like.element_size();
    for (const int64_t size : shape) {  // what overflows is torch's to refuse
        if (__builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes)) return false;
    }
    return bytes >= kLarge;
}

// A dense tensor of the dtype of `like` in memory that the process keeps; nothing where torch's
// allocator has to serve.
inline std::optional<Tensor> from_cache(const Tensor& like,
                                        torch::headeronly::IntHeaderOnlyArrayRef shape,
                                        torch::headeronly::IntHeaderOnlyArrayRef strides) {
    size_t bytes = like.element_size();
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    int32_t dtype;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    const AtenTensorHandle handle = cached_result(bytes, static_cast<int64_t>(shape.size()),
                                                  shape.data(), strides.data(), dtype);
    return handle == nullptr ? std::nullopt : std::optional(Tensor(handle));
}

inline Tensor fresh(const Tensor& x, torch::headeronly::IntHeaderOnlyArrayRef shape,
                    std::optional<ScalarType> dtype = std::nullopt) {
    if (is_large(x, shape) && (!dtype.has_value() || *dtype == x.scalar_type())) {
        std::vector<int64_t> strides(shape.size());
        int64_t elements = 1;
        for (size_t d = shape.size(); d-- > 0; elements *= shape[d]) strides[d] = elements;
        if (auto kept = from_cache(x, shape, strides)) return *kept;
    }
    Tensor t = fusewright::fresh(x, shape, dtype);
    prefer_huge_pages(t);
    return t;
}

// With the strides of x, as torch.empty_like.
inline Tensor fresh_like(const Tensor& x) {
    if (x.is_contiguous()) return fresh(x, x.sizes());
    if (is_large(x, x.sizes())) {
        // Which strides these are torch says itself, of a tensor without memory.
        int32_t dtype;
        AtenTensorHandle handle;
        STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
        STABLE_TORCH_ERROR_CODE_CHECK(
            aoti_torch_empty_strided(x.dim(), x.sizes().data(), x.strides().data(), dtype,
                                     aoti_torch_device_type_meta(), -1, &handle));
        const Tensor meta = torch::stable::empty_like(Tensor(handle));
        if (auto kept = from_cache(x, meta.sizes(), meta.strides())) return *kept;
    }
    Tensor t = fusewright::fresh_like(x);
    prefer_huge_pages(t);
    return t;
}

}  // namespace fusewright::cpu::FW_ISA
