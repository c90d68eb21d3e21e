// A vector of float or double accumulators, and its loads and stores in every element type.
#pragma once

#include <utility>

#include "cpu/element.h"

namespace fusewright::cpu::FW_ISA {

template <class A>
struct Mask {
    using native = decltype(native_t<A>{} < native_t<A>{});
    native m;

    friend Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
    friend Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
    friend Mask operator!(Mask a) { return {~a.m}; }
};

template <class A>
struct Vec {
    static_assert(std::is_same_v<A, float> || std::is_same_v<A, double>);
    using scalar = A;
    using native = native_t<A>;
    using bits = native_t<std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>>;
    static constexpr int size = kVectorBytes / sizeof(A);

    native v;

    Vec() : v{} {}
    explicit Vec(native lanes) : v(lanes) {}
    // Subtracting zero broadcasts and keeps the sign of -0; adding zero would lose it.
    Vec(A a) : v(a - native{}) {}

    A operator[](int lane) const { return v[lane]; }

    Vec operator-() const { return Vec(-v); }
    friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
    friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
    friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
    friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
    Vec& operator+=(Vec b) { return *this = *this + b; }
    Vec& operator-=(Vec b) { return *this = *this - b; }
    Vec& operator*=(Vec b) { return *this = *this * b; }
    Vec& operator/=(Vec b) { return *this = *this / b; }

    friend Mask<A> operator<(Vec a, Vec b) { return {a.v < b.v}; }
    friend Mask<A> operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
    friend Mask<A> operator>(Vec a, Vec b) { return {a.v > b.v}; }
    friend Mask<A> operator>=(Vec a, Vec b) { return {a.v >= b.v}; }
    friend Mask<A> operator==(Vec a, Vec b) { return {a.v == b.v}; }
    friend Mask<A> operator!=(Vec a, Vec b) { return {a.v != b.v}; }

    friend Vec select(Mask<A> mask, Vec a, Vec b) { return Vec(mask.m ? a.v : b.v); }

    // One rounding where the target has FMA: the compilers contract a single expression.
    friend Vec fma(Vec a, Vec b, Vec c) { return Vec(a.v * b.v + c.v); }

    // b where either is NaN, as the x86 instructions do.
    friend Vec min(Vec a, Vec b) { return Vec(a.v < b.v ? a.v : b.v); }
    friend Vec max(Vec a, Vec b) { return Vec(a.v > b.v ? a.v : b.v); }

    friend Vec copysign(Vec magnitude, Vec sign) {
        const bits s = sign_bits();
        return Vec(reinterpret<native>((reinterpret<bits>(magnitude.v) & ~s) |
                                       (reinterpret<bits>(sign.v) & s)));
    }
    friend Vec abs(Vec a) {
        return Vec(reinterpret<native>(reinterpret<bits>(a.v) & ~sign_bits()));
    }

    friend Vec sqrt(Vec a) {
        Vec root;
        for (int i = 0; i < size; ++i) {
            if constexpr (sizeof(A) == 4) {
                root.v[i] = __builtin_sqrtf(a.v[i]);
            } else {
                root.v[i] = __builtin_sqrt(a.v[i]);
            }
        }
        return root;
    }

    // Over the lanes. max() may lose a NaN.
    A sum() const {
        return fold(v, [](auto a, auto b) { return a + b; });
    }
    A max() const {
        return fold(v, [](auto a, auto b) { return a > b ? a : b; });
    }

  private:
    static bits sign_bits() { return reinterpret<bits>(-native{}); }

    template <int bytes, int... lane>
    static native_t<A, bytes> pick(native_t<A, 2 * bytes> x, int first,
                                   std::integer_sequence<int, lane...>) {
        return native_t<A, bytes>{x[first + lane]...};
    }

    // Combines the lower with the upper half of the lanes until one is left: a fixed order.
    template <int bytes = kVectorBytes, class F>
    static A fold(native_t<A, bytes> x, F combine) {
        constexpr int half = bytes / sizeof(A) / 2;
        if constexpr (half == 1) {
            return combine(x[0], x[1]);
        } else {
            constexpr auto lanes = std::make_integer_sequence<int, half>{};
            return fold<bytes / 2>(
                combine(pick<bytes / 2>(x, 0, lanes), pick<bytes / 2>(x, half, lanes)), combine);
        }
    }
};

template <class A, class T>
inline Vec<A> load(const T* p) {
    static_assert(std::is_same_v<A, acc_t<T>>);
    typename Format<T>::stored s;
    std::memcpy(&s, p, sizeof s);
    return Vec<A>(Format<T>::widen(s));
}

template <class A, class T>
inline void store(T* p, Vec<A> v) {
    static_assert(std::is_same_v<A, acc_t<T>>);
    const typename Format<T>::stored s = Format<T>::narrow(v.v);
    std::memcpy(p, &s, sizeof s);
}

// Reads n <= size elements, never past them; the other lanes are zero.
template <class A, class T>
inline Vec<A> load_partial(const T* p, int n) {
    static_assert(std::is_same_v<A, acc_t<T>>);
    using stored = typename Format<T>::stored;
#if defined(__AVX512F__)
    const unsigned lanes = (1u << n) - 1;
    if constexpr (sizeof(T) == 2) {
        return Vec<A>(Format<T>::widen((stored)_mm256_maskz_loadu_epi16(lanes, p)));
    } else if constexpr (sizeof(T) == 4) {
        return Vec<A>((stored)_mm512_maskz_loadu_epi32(lanes, p));
    } else {
        return Vec<A>((stored)_mm512_maskz_loadu_epi64(lanes, p));
    }
#else
    stored s{};
    std::memcpy(&s, p, n * sizeof(T));
    return Vec<A>(Format<T>::widen(s));
#endif
}

template <class A, class T>
inline void store_partial(T* p, Vec<A> v, int n) {
    static_assert(std::is_same_v<A, acc_t<T>>);
    const typename Format<T>::stored s = Format<T>::narrow(v.v);
#if defined(__AVX512F__)
    const unsigned lanes = (1u << n) - 1;
    if constexpr (sizeof(T) == 2) {
        _mm256_mask_storeu_epi16(p, lanes, (__m256i)s);
    } else if constexpr (sizeof(T) == 4) {
        _mm512_mask_storeu_epi32(p, lanes, (__m512i)s);
    } else {
        _mm512_mask_storeu_epi64(p, lanes, (__m512i)s);
    }
#else
    std::memcpy(p, &s, n * sizeof(T));
#endif
}

// c + a b in the lanes whose bits are set, c in the others.
template <class A>
inline Vec<A> fma_lanes(Vec<A> a, Vec<A> b, Vec<A> c, unsigned lanes) {
#if defined(__AVX512F__)
    using native = typename Vec<A>::native;
    if constexpr (sizeof(A) == 4) {
        return Vec<A>((native)_mm512_mask3_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v, lanes));
    } else {
        return Vec<A>(
            (native)_mm512_mask3_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v, lanes));
    }
#else
    const Vec<A> all = fma(a, b, c);
    for (int i = 0; i < Vec<A>::size; ++i) {
        if (lanes >> i & 1) c.v[i] = all.v[i];
    }
    return c;
#endif
}

// stride counts elements.
template <class A, class T>
inline Vec<A> load_strided(const T* p, int64_t stride) {
    T elements[Vec<A>::size];
    for (int i = 0; i < Vec<A>::size; ++i) elements[i] = p[i * stride];
    return load<A>(elements);
}

// Sums stay in registers only where everything around them is inlined.
#define FW_INLINE inline __attribute__((always_inline))
#define FW_INLINE_LAMBDA __attribute__((always_inline))

// Calls f(0), f(1), ... with constants.
template <int count, class F, int... i>
FW_INLINE void repeat(F&& f, std::integer_sequence<int, i...>) {
    (f(std::integral_constant<int, i>{}), ...);
}
template <int count, class F>
FW_INLINE void repeat(F&& f) {
    repeat<count>(f, std::make_integer_sequence<int, count>{});
}

// Calls f(n) with n as a constant where it is one of those, else f(0).
template <int... known, class F>
void with_constant(int64_t n, F&& f) {
    const bool found = ((n == known && (f(std::integral_constant<int, known>{}), true)) || ...);
    if (!found) f(std::integral_constant<int, 0>{});
}

// Lanes of two vectors, numbered through both.
template <class V, int... lane>
inline V pick_lanes(V a, V b, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, lane...);
#else
    using index = std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t>;
    return __builtin_shuffle(a, b, native_t<index>{lane...});
#endif
}

// What lay `lag` places before `now`, with `before` in front of it.
template <int lag, class A, int... i>
inline Vec<A> delayed(Vec<A> before, Vec<A> now, std::integer_sequence<int, i...>) {
    constexpr int first = Vec<A>::size - lag;
    return Vec<A>(pick_lanes(before.v, now.v, std::integer_sequence<int, first + i...>{}));
}
template <int lag, class A>
inline Vec<A> delayed(Vec<A> before, Vec<A> now) {
    static_assert(0 <= lag && lag <= Vec<A>::size);
    return delayed<lag>(before, now, std::make_integer_sequence<int, Vec<A>::size>{});
}

template <class A>
struct VecPair {
    Vec<A> first, second;
};

// The even and the odd ones of 2 * size elements in a row.
template <class A, int... i>
inline VecPair<A> even_odd(Vec<A> a, Vec<A> b, std::integer_sequence<int, i...>) {
    return {Vec<A>(pick_lanes(a.v, b.v, std::integer_sequence<int, 2 * i...>{})),
            Vec<A>(pick_lanes(a.v, b.v, std::integer_sequence<int, 2 * i + 1 ...>{}))};
}
template <class A>
inline VecPair<A> even_odd(Vec<A> a, Vec<A> b) {
    return even_odd(a, b, std::make_integer_sequence<int, Vec<A>::size>{});
}

// The inverse: elements of a and b in turn.
template <class A, int... i>
inline VecPair<A> interleave(Vec<A> a, Vec<A> b, std::integer_sequence<int, i...>) {
    constexpr int size = Vec<A>::size;
    return {Vec<A>(pick_lanes(a.v, b.v, std::integer_sequence<int, i / 2 + i % 2 * size...>{})),
            Vec<A>(pick_lanes(a.v, b.v,
                              std::integer_sequence<int, (size + i) / 2 + i % 2 * size...>{}))};
}
template <class A>
inline VecPair<A> interleave(Vec<A> a, Vec<A> b) {
    return interleave(a, b, std::make_integer_sequence<int, Vec<A>::size>{});
}

// Past the caches, for results that are not read again soon. Call stream_fence() after the last.
template <class A, class T>
inline void store_stream(T* p, Vec<A> v) {
#if defined(FW_X86)
    const typename Format<T>::stored s = Format<T>::narrow(v.v);
    if (reinterpret_cast<uintptr_t>(p) % sizeof s == 0) {
        if constexpr (sizeof s == 8) {
            _mm_stream_si64(reinterpret_cast<long long*>(p), reinterpret<long long>(s));
        } else if constexpr (sizeof s == 16) {
            _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)s);
#if defined(__AVX2__)
        } else if constexpr (sizeof s == 32) {
            _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)s);
#endif
#if defined(__AVX512F__)
        } else {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)s);
#endif
        }
        return;
    }
#endif
    store(p, v);
}

inline void stream_fence() {
#if defined(FW_X86)
    _mm_sfence();
#endif
}

}  // namespace fusewright::cpu::FW_ISA
