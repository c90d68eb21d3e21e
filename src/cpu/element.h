// The element types of tensors: what they accumulate in and how they convert.
//
// Each kernel source is compiled once an instruction set with FW_ISA set to its name. All code
// lives in that namespace, so that the linker can never hand one build's copy to another. For the
// same reason kernels convert elements by to_acc and from_acc, not by the operators of BFloat16
// and Half, which are inline functions shared by all builds.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__) || defined(_M_X64)
#define FW_X86 1
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fusewright::cpu::FW_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// The type that sums of T are kept in.
template <class T>
struct Acc {
    using type = T;
};
template <>
struct Acc<BFloat16> {
    using type = float;
};
template <>
struct Acc<Half> {
    using type = float;
};
template <class T>
using acc_t = typename Acc<T>::type;

template <class E, int bytes>
struct Native {
    typedef E type __attribute__((vector_size(bytes)));
};
template <class E, int bytes = kVectorBytes>
using native_t = typename Native<E, bytes>::type;

template <class To, class From>
inline To reinterpret(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// How a native vector of acc_t<T> is stored as T.
template <class T>
struct Format {
    using element = T;
    using stored = native_t<T>;
    static stored widen(stored s) { return s; }
    static stored narrow(stored v) { return v; }
};

struct Format16 {
    using element = uint16_t;
    using stored = native_t<uint16_t, kVectorBytes / 2>;
    using floats = native_t<float>;
    using bits = native_t<uint32_t>;

    // Intrinsics where GCC would convert vectors by halves. Their forms with a mask avoid its
    // warnings about the undefined vector in the plain ones.
#if defined(__AVX512F__)
    static bits to_bits(stored s) { return (bits)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)s); }
    static stored from_bits(bits b) {
        return (stored)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)b);
    }
#elif defined(__AVX2__)
    static bits to_bits(stored s) { return (bits)_mm256_cvtepu16_epi32((__m128i)s); }
    static stored from_bits(bits b) {
        const __m256i i = (__m256i)b;
        return (stored)_mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    }
#elif defined(__aarch64__)
    static bits to_bits(stored s) {
        return reinterpret<bits>(vmovl_u16(reinterpret<uint16x4_t>(s)));
    }
    static stored from_bits(bits b) { return __builtin_convertvector(b, stored); }
#else
    static bits to_bits(stored s) { return __builtin_convertvector(s, bits); }
    static stored from_bits(bits b) { return __builtin_convertvector(b, stored); }
#endif
};

template <>
struct Format<BFloat16> : Format16 {
    static floats widen(stored s) { return reinterpret<floats>(to_bits(s) << 16); }

    static stored narrow(floats v) {
        const bits b = reinterpret<bits>(v);
        const bits rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
        return from_bits(v == v ? rounded : bits{} + 0x7fc0);
    }
};

template <>
struct Format<Half> : Format16 {
#if defined(__AVX512F__)
    static floats widen(stored s) { return (floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)s); }
    static stored narrow(floats v) {
        return (stored)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT);
    }
#elif defined(__F16C__)
    static floats widen(stored s) { return (floats)_mm256_cvtph_ps((__m128i)s); }
    static stored narrow(floats v) {
        return (stored)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT);
    }
#elif defined(__aarch64__)
    static floats widen(stored s) {
        return reinterpret<floats>(vcvt_f32_f16(reinterpret<float16x4_t>(s)));
    }
    static stored narrow(floats v) {
        return reinterpret<stored>(vcvt_f16_f32(reinterpret<float32x4_t>(v)));
    }
#else
    using ints = native_t<int32_t>;
    static constexpr uint32_t kRebias = (127 - 15) << 23;  // from Half's exponent to float's

    static floats widen(stored s) {
        const bits h = to_bits(s);
        const bits magnitude = h & 0x7fff;
        const bits normal = (magnitude << 13) + kRebias;
        const bits infinite = normal + kRebias;
        const floats subnormal = __builtin_convertvector((ints)magnitude, floats) * 0x1p-24f;
        const bits finite = magnitude < 0x400 ? reinterpret<bits>(subnormal) : normal;
        return reinterpret<floats>((magnitude < 0x7c00 ? finite : infinite) | (h & 0x8000) << 16);
    }

    static stored narrow(floats v) {
        const bits b = reinterpret<bits>(v);
        const bits magnitude = b & 0x7fffffff;
        const bits normal = (magnitude - kRebias + 0xfff + ((magnitude >> 13) & 1)) >> 13;
        // In [1/2, 1) floats lie 2^-24 apart, as Half's subnormals do: the addition rounds.
        const bits subnormal =
            reinterpret<bits>(reinterpret<floats>(magnitude) + 0.5f) - 0x3f000000;
        const bits infinite = v == v ? bits{} + 0x7c00 : bits{} + 0x7e00;
        const bits finite = magnitude < kRebias + 0x800000 ? subnormal : normal;
        const bits rounded = magnitude < 0x477ff000 ? finite : infinite;
        return from_bits(rounded | (b >> 16 & 0x8000));
    }
#endif
};

template <class T>
inline acc_t<T> to_acc(T x) {
    using F = Format<T>;
    return F::widen(typename F::stored{reinterpret<typename F::element>(x)})[0];
}

template <class T>
inline T from_acc(acc_t<T> x) {
    return reinterpret<T>(Format<T>::narrow(native_t<acc_t<T>>{x})[0]);
}

}  // namespace fusewright::cpu::FW_ISA
