// Products of a few rows with a weight that is far larger than they are. Torch's libraries, made
// for many rows, take two to three times as long as the weight takes to read.
//
// The weight is read once, in panels of a vector's worth of its rows; a block of a panel meets all
// rows of x while both are in the nearest cache. Which thread computes an element does not change
// the order of its sum.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/row.h"

namespace fusewright::cpu::FW_ISA {

struct FewRows {
    static constexpr int64_t least = 4, most = 32;  // rows; with fewer, torch is as fast
    static constexpr int lanes = Vec<float>::size;
    static constexpr int panel = lanes;  // rows of the weight
    static constexpr int across = 4;     // of them, in one tile
#if defined(__AVX512F__) || defined(__aarch64__)
    static constexpr int down = 4;  // rows of x in one tile: 32 registers
#else
    static constexpr int down = 2;
#endif

    int64_t rows, columns, inner;
    const float* weight;  // (columns, inner), dense along the inner dimension
    int64_t stride;

    // Of the inner dimension, so that 24 KiB of x are in use at a time.
    int64_t block() const { return std::max<int64_t>(6144 / rows / lanes, 4) * lanes; }
    const float* row(int64_t n) const { return weight + std::min(n, columns - 1) * stride; }
};

// f(first, count) for tiles of `most` rows, then of half as many, ...
template <int most, class F>
FW_INLINE void for_tiles(int64_t begin, int64_t end, F&& f) {
    for (; begin + most <= end; begin += most) f(begin, std::integral_constant<int, most>{});
    if constexpr (most > 1) for_tiles<most / 2>(begin, end, f);
}

// x block by block, each with all its rows, the last one filled up with zeros. Rows that lie a
// power of two apart would push each other out of the cache.
inline std::vector<Vec<float>> pack_rows(const FewRows& p, const float* x, int64_t stride,
                                         int64_t step) {
    const int64_t block = p.block(), blocks = (p.inner + block - 1) / block;
    std::vector<Vec<float>> packed(p.rows * blocks * block / FewRows::lanes);
    float* to = reinterpret_cast<float*>(packed.data());
    for (int64_t k = 0; k < p.inner; k += block) {
        for (int64_t m = 0; m < p.rows; ++m, to += block) {
            load_row(x + m * stride + k * step, step, std::min(block, p.inner - k), to);
        }
    }
    return packed;
}

// sums[m][c] += x[m] · w[c] in lanes; asks for the lines at `next`, which are wanted soon.
template <int down>
void add_products(const float* x, int64_t stride, const float* const* w, const float* next,
                  int64_t n, Vec<float>* sums) {
    constexpr int across = FewRows::across;
    // GCC keeps an array of these in registers, but not one of Vec.
    Vec<float>::native sum[down][across];
#pragma GCC unroll 4
    for (int m = 0; m < down; ++m) {
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c) sum[m][c] = sums[m * FewRows::panel + c].v;
    }
    for (int64_t k = 0; k < n; k += FewRows::lanes) {
        Vec<float>::native right[across];
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c) right[c] = load<float>(w[c] + k).v;
        __builtin_prefetch(next + k);
#pragma GCC unroll 4
        for (int m = 0; m < down; ++m) {
            const auto left = load<float>(x + m * stride + k).v;
#pragma GCC unroll 4
            for (int c = 0; c < across; ++c) sum[m][c] += left * right[c];
        }
    }
#pragma GCC unroll 4
    for (int m = 0; m < down; ++m) {
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c) sums[m * FewRows::panel + c].v = sum[m][c];
    }
}

// The products of all packed rows of x with the weight's rows from n: sums[m][c], still in lanes.
inline void panel_products(const FewRows& p, const Vec<float>* packed, int64_t n,
                           Vec<float>* sums) {
    constexpr int across = FewRows::across, lanes = FewRows::lanes;
    const int64_t block = p.block();
    const float* x = reinterpret_cast<const float*>(packed);
    std::fill_n(sums, p.rows * FewRows::panel, Vec<float>());
    for (int64_t k = 0; k < p.inner; k += block, x += p.rows * block) {
        const int64_t size = std::min(block, p.inner - k), whole = size / lanes * lanes;
        const int64_t next_k = k + block < p.inner ? k + block : 0;
        for (int c = 0; c < FewRows::panel; c += across) {
            const bool last = c + across == FewRows::panel;
            const int64_t next_n = last && next_k > 0 ? n : n + c + across;
            const float *w[across], *next[across], *end[across];
            Vec<float> tail[across];
            for (int i = 0; i < across; ++i) {
                w[i] = p.row(n + c + i) + k;
                next[i] = p.row(next_n + i) + (last ? next_k : k);
                tail[i] = load_partial<float>(w[i] + whole, static_cast<int>(size - whole));
                end[i] = reinterpret_cast<const float*>(&tail[i]);
            }
            for_tiles<FewRows::down>(0, p.rows, [&](int64_t m, auto down) {
                const float *left = x + m * block, *wanted = next[m / FewRows::down % across];
                Vec<float>* sum = sums + m * FewRows::panel + c;
                add_products<down>(left, block, w, wanted, whole, sum);
                if (whole < size) add_products<down>(left + whole, block, end, wanted, lanes, sum);
            });
        }
    }
}

// The sums over the lanes of Vec::size / step vectors that lie `step` apart, each in its lane.
template <int step = 1>
inline Vec<float> sum_each(const Vec<float>* v) {
    if constexpr (step == Vec<float>::size) {
        return *v;
    } else {
        const auto halves = interleave(sum_each<2 * step>(v), sum_each<2 * step>(v + step));
        return halves.first + halves.second;
    }
}

}  // namespace fusewright::cpu::FW_ISA
