// Rows of a tensor as accumulators and back.
#pragma once

#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

template <class A, class T>
void load_row(const T* p, int64_t step, int64_t n, A* out) {
    constexpr int lanes = Vec<A>::size;
    int64_t i = 0;
    if (step == 1) {
        for (; i + lanes <= n; i += lanes) store(out + i, load<A>(p + i));
        if (i < n) {
            const int rest = static_cast<int>(n - i);
            store_partial(out + i, load_partial<A>(p + i, rest), rest);
        }
        return;
    }
    for (; i < n; ++i) out[i] = to_acc(p[i * step]);
}

template <class A, class T>
void store_row(const A* row, int64_t step, int64_t n, T* p) {
    constexpr int lanes = Vec<A>::size;
    int64_t i = 0;
    if (step == 1) {
        for (; i + lanes <= n; i += lanes) store(p + i, load<A>(row + i));
        if (i < n) {
            const int rest = static_cast<int>(n - i);
            store_partial(p + i, load_partial<A>(row + i, rest), rest);
        }
        return;
    }
    for (; i < n; ++i) p[i * step] = from_acc<T>(row[i]);
}

}  // namespace fusewright::cpu::FW_ISA
