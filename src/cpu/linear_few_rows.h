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

// Rows are packed block by block, each with all of them, the last one filled up with zeros: rows
// that lie a power of two apart would push each other out of the cache.
inline std::vector<Vec<float>> zero_rows(const FewRows& p) {
    const int64_t blocks = (p.inner + p.block() - 1) / p.block();
    return std::vector<Vec<float>>(p.rows * blocks * p.block() / FewRows::lanes);
}

// f(where the part of a row lies, where it lies packed, its size)
template <class F>
void for_packed(const FewRows& p, int64_t stride, int64_t step, F&& f) {
    int64_t at = 0;
    for (int64_t k = 0; k < p.inner; k += p.block()) {
        for (int64_t m = 0; m < p.rows; ++m, at += p.block()) {
            f(m * stride + k * step, at, std::min(p.block(), p.inner - k));
        }
    }
}

inline std::vector<Vec<float>> pack_rows(const FewRows& p, const float* x, int64_t stride,
                                         int64_t step) {
    auto packed = zero_rows(p);
    float* to = reinterpret_cast<float*>(packed.data());
    for_packed(p, stride, step, [&](int64_t from, int64_t at, int64_t size) {
        load_row(x + from, step, size, to + at);
    });
    return packed;
}

inline void unpack_rows(const FewRows& p, const Vec<float>* packed, float* out, int64_t stride) {
    const float* from = reinterpret_cast<const float*>(packed);
    for_packed(p, stride, 1, [&](int64_t to, int64_t at, int64_t size) {
        store_row(from + at, 1, size, out + to);
    });
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

// out[m] += sum over c of factors[m][c] w[c]; `next` as above.
template <int down>
void add_multiples(float* out, int64_t stride, const float* const* w, const float* next, int64_t n,
                   const float* factors) {
    constexpr int across = FewRows::across;
    Vec<float>::native left[down][across];
#pragma GCC unroll 4
    for (int m = 0; m < down; ++m) {
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c) left[m][c] = Vec<float>(factors[m * FewRows::panel + c]).v;
    }
    for (int64_t k = 0; k < n; k += FewRows::lanes) {
        Vec<float>::native right[across];
#pragma GCC unroll 4
        for (int c = 0; c < across; ++c) right[c] = load<float>(w[c] + k).v;
        __builtin_prefetch(next + k);
#pragma GCC unroll 4
        for (int m = 0; m < down; ++m) {
            auto sum = left[m][0] * right[0];
#pragma GCC unroll 4
            for (int c = 1; c < across; ++c) sum += left[m][c] * right[c];
            store(out + m * stride + k, load<float>(out + m * stride + k) + Vec<float>(sum));
        }
    }
}

// f(m, down, c, offset, w, next, size) for what the weight's rows from n have to do with tiles of
// `down` packed rows; `size` is of whole vectors, the last one filled up with zeros.
template <class F>
FW_INLINE void for_panel(const FewRows& p, int64_t n, F&& f) {
    constexpr int across = FewRows::across, lanes = FewRows::lanes;
    const int64_t block = p.block();
    int64_t offset = 0;
    for (int64_t k = 0; k < p.inner; k += block, offset += p.rows * block) {
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
                const float* wanted = next[m / FewRows::down % across];
                const int64_t at = offset + m * block;
                f(m, down, c, at, w, wanted, whole);
                if (whole < size) f(m, down, c, at + whole, end, wanted, int64_t{lanes});
            });
        }
    }
}

// The products of all packed rows of x with the weight's rows from n: sums[m][c], still in lanes.
inline void panel_products(const FewRows& p, const Vec<float>* packed, int64_t n,
                           Vec<float>* sums) {
    const float* x = reinterpret_cast<const float*>(packed);
    std::fill_n(sums, p.rows * FewRows::panel, Vec<float>());
    for_panel(p, n, [&](int64_t m, auto down, int c, int64_t at, auto& w, auto next, int64_t size) {
        add_products<down>(x + at, p.block(), w, next, size, sums + m * FewRows::panel + c);
    });
}

// To all packed rows: factors[m][c] times the weight's rows from n.
inline void add_panel(const FewRows& p, const Vec<float>* factors, int64_t n, Vec<float>* packed) {
    float* out = reinterpret_cast<float*>(packed);
    for_panel(p, n, [&](int64_t m, auto down, int c, int64_t at, auto& w, auto next, int64_t size) {
        const float* first = reinterpret_cast<const float*>(factors + m) + c;
        add_multiples<down>(out + at, p.block(), w, next, size, first);
    });
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
