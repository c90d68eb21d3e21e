// Products so small that one thread is as fast as torch's libraries with all of theirs.
//
// The weight is transposed first, so that a vector holds as many of its rows, and stays in the
// caches nearest to the core; a tile of the result stays in registers.
#pragma once

#include <algorithm>

#include "cpu/transpose.h"

namespace fusewright::cpu::FW_ISA {

// y = x weightᵀ + bias of fp32, all dense along their last dimension.
struct SmallProduct {
    static constexpr int down = 4;            // rows of x in one tile
    static constexpr int64_t most = 1 << 14;  // elements of the weight, in whole vectors
#if defined(__AVX512F__) || defined(__aarch64__)
    static constexpr int across = 4;  // vectors of the weight's rows in it: 32 registers
#else
    static constexpr int across = 2;
#endif
    using vector = native_t<float>;

    int64_t rows, columns, inner;
    const float *x, *weight, *bias;  // the bias may be null
    int64_t x_stride, weight_stride;
    float* y;

    // Vectors of the weight's rows.
    int64_t vectors() const { return (columns + Vec<float>::size - 1) / Vec<float>::size; }
};

// Calls f(first vector, count) for the vectors of the weight's rows that a tile takes together.
template <int most = SmallProduct::across, class F>
void for_panels(const SmallProduct& p, F&& f, int64_t first = 0) {
    for (; first + most <= p.vectors(); first += most)
        f(first, std::integral_constant<int, most>{});
    if constexpr (most > 1) for_panels<most / 2>(p, f, first);
}

// The weight as (panel, inner, row of the panel); rows past the last are zeros.
inline void pack_weight(const SmallProduct& p, SmallProduct::vector* packed) {
    constexpr int lanes = Vec<float>::size;
    for_panels(p, [&](int64_t first, auto across) {
        for (int c = 0; c < across; ++c) {
            const int64_t n = (first + c) * lanes;
            const int count = static_cast<int>(std::min<int64_t>(lanes, p.columns - n));
            SmallProduct::vector* to = &packed[first * p.inner + c];
            for (int64_t k = 0; k < p.inner; k += lanes) {
                const int size = static_cast<int>(std::min<int64_t>(lanes, p.inner - k));
                SmallProduct::vector block[lanes];
                load_block<float>(p.weight + n * p.weight_stride + k, p.weight_stride, count, 1,
                                  size, block);
                for (int i = 0; i < size; ++i, to += across) *to = block[i];
            }
        }
    });
}

// The rows of x from m with the weight's from n on.
template <int down, int across>
void small_tile(const SmallProduct& p, int64_t m, int64_t n, const SmallProduct::vector* panel) {
    constexpr int lanes = Vec<float>::size;
    const int last =
        static_cast<int>(std::min<int64_t>(lanes, p.columns - n - (across - 1) * lanes));
    SmallProduct::vector sum[down][across];
#pragma GCC unroll 4
    for (int c = 0; c < across; ++c) {
        Vec<float> start;
        if (p.bias) {
            start = load_partial<float>(p.bias + n + c * lanes, c + 1 < across ? lanes : last);
        }
#pragma GCC unroll 4
        for (int r = 0; r < down; ++r) sum[r][c] = start.v;
    }
    const float* x = p.x + m * p.x_stride;
    for (int64_t k = 0; k < p.inner; ++k, panel += across) {
#pragma GCC unroll 4
        for (int r = 0; r < down; ++r) {
            const auto left = Vec<float>(x[r * p.x_stride + k]).v;
#pragma GCC unroll 4
            for (int c = 0; c < across; ++c) sum[r][c] += left * panel[c];
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < down; ++r) {
        float* to = p.y + (m + r) * p.columns + n;
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c, to += lanes) {
            store_partial(to, Vec<float>(sum[r][c]), c + 1 < across ? lanes : last);
        }
    }
}

inline void small_rows(const SmallProduct& p, const SmallProduct::vector* packed) {
    for_panels(p, [&](int64_t first, auto across) {
        constexpr int down = SmallProduct::down;
        const int64_t n = first * Vec<float>::size;
        const SmallProduct::vector* panel = packed + first * p.inner;
        int64_t m = 0;
        for (; m + down <= p.rows; m += down) small_tile<down, across>(p, m, n, panel);
        for (; m < p.rows; ++m) small_tile<1, across>(p, m, n, panel);
    });
}

}  // namespace fusewright::cpu::FW_ISA
