// Square blocks of a matrix, between its rows and vectors of its columns.
#pragma once

#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

// At most a vector of elements that lie `step` apart.
template <class T>
Vec<acc_t<T>> load_run(const T* p, int64_t step, int n) {
    using A = acc_t<T>;
    if (step == 1) return n == Vec<A>::size ? load<A>(p) : load_partial<A>(p, n);
    A values[Vec<A>::size] = {};
    for (int i = 0; i < n; ++i) values[i] = to_acc(p[i * step]);
    return load<A>(values);
}

// What a step of the transposition leaves in the first, or the second, of two rows.
template <class A, int half, bool second, int... lane>
FW_INLINE native_t<A> exchange(native_t<A> a, native_t<A> b, std::integer_sequence<int, lane...>) {
    constexpr int upper = Vec<A>::size - half, all = second ? half : 0;
    return pick_lanes(a, b,
                      std::integer_sequence<int, (lane + all + (lane & half ? upper : 0))...>{});
}

// Transposes a square block: blocks of half the size change places, then halves of those.
template <class A, int half = Vec<A>::size / 2>
FW_INLINE void transpose(native_t<A>* rows) {
    if constexpr (half > 0) {
        constexpr auto lanes = std::make_integer_sequence<int, Vec<A>::size>{};
        repeat<Vec<A>::size>([&](auto i) FW_INLINE_LAMBDA {
            if constexpr ((i & half) == 0) {
                const native_t<A> a = rows[i], b = rows[i + half];
                rows[i] = exchange<A, half, false>(a, b, lanes);
                rows[i + half] = exchange<A, half, true>(a, b, lanes);
            }
        });
        transpose<A, half / 2>(rows);
    }
}

#if defined(__AVX512F__)
// Of every four lanes of a and b the lower two, and the upper two, in turn.
template <int... i>
FW_INLINE VecPair<float> unpack(native_t<float> a, native_t<float> b,
                                std::integer_sequence<int, i...>) {
    return {Vec<float>(pick_lanes(
                a, b, std::integer_sequence<int, (i & ~3) + i % 4 / 2 + i % 2 * 16 ...>{})),
            Vec<float>(pick_lanes(
                a, b, std::integer_sequence<int, (i & ~3) + 2 + i % 4 / 2 + i % 2 * 16 ...>{}))};
}
#endif

// Columns of a square block whose rows lie `step` elements apart: block[i] holds element i of each.
template <class A, class T>
FW_INLINE void load_transposed(const T* from, int64_t step, native_t<A>* block) {
    constexpr int lanes = Vec<A>::size;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>) {
        // Loads that put quarters in place take other ports than permutations of two vectors do.
        constexpr auto each = std::make_integer_sequence<int, lanes>{};
        repeat<4>([&](auto q) FW_INLINE_LAMBDA {
            native_t<float> r[4];
            repeat<4>([&](auto i) FW_INLINE_LAMBDA {
                const float* p = from + 4 * q + i * step;
                __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(p));
                v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 4 * step), 1);
                v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 8 * step), 2);
                v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(p + 12 * step), 3);
                r[i] = (native_t<float>)v;
            });
            const auto a = unpack(r[0], r[2], each), b = unpack(r[1], r[3], each);
            const auto lower = unpack(a.first.v, b.first.v, each);
            const auto upper = unpack(a.second.v, b.second.v, each);
            block[4 * q] = lower.first.v, block[4 * q + 1] = lower.second.v;
            block[4 * q + 2] = upper.first.v, block[4 * q + 3] = upper.second.v;
        });
        return;
    }
#endif
    repeat<lanes>([&](auto i) FW_INLINE_LAMBDA { block[i] = load<A>(from + i * step).v; });
    transpose<A>(block);
}

// Reads at most a vector of elements `step` apart from each of at most a vector of channels, as
// elements of channels: block[i] holds element i. Lanes past the last channel are zero.
template <class A, class T>
FW_INLINE void load_block(const T* from, int64_t channel, int channels, int64_t step, int n,
                          native_t<A>* block) {
    constexpr int lanes = Vec<A>::size;
    if (channels == lanes && n == lanes && step == 1) {
        load_transposed<A>(from, channel, block);
    } else {
        for (int i = 0; i < lanes; ++i) {
            block[i] = i < channels ? load_run(from + i * channel, step, n).v : native_t<A>{};
        }
        transpose<A>(block);
    }
}

}  // namespace fusewright::cpu::FW_ISA
