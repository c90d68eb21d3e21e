// What layer_norm (`centred`) and rms_norm share. A row is read once by one warp or one block; rows
// that don't fit in registers, or can't be read in packs, take the plain kernels of norm_plain.cuh.
#pragma once

#include "activation.cuh"
#include "launch.h"
#include "reduce.cuh"
#include "rows.cuh"

namespace fusewright::cuda {

struct NormOptions {
    const char* op;
    int64_t norm_dims;
    double eps;
    Activation activation;
    double offset = 0;         // added to the weight
    bool round_first = false;  // Llama's order: round the normalised row, then multiply
};

// What forward and backward kernels know of the call.
template <class A>
struct NormParams {
    int64_t rows, columns;
    A eps, offset;
    bool round_first;
    ScalarType rounding;  // the type of y, to which Llama's order rounds
    Activation activation;
    Untyped weight, bias;
};

template <class A>
NormParams<A> norm_params(const NormOptions& o, const Rows& x, const std::optional<Tensor>& weight,
                          const std::optional<Tensor>& bias, ScalarType rounding) {
    for (const auto& parameter : {weight, bias}) {
        FW_CHECK(!present(parameter) || parameter->numel() == x.columns, o.op,
                 "weight and bias must have ", x.columns, " elements");
    }
    return {x.rows,   x.columns,    A(o.eps),        A(o.offset),  o.round_first,
            rounding, o.activation, Untyped(weight), Untyped(bias)};
}

inline bool is_double(const std::optional<Tensor>& t) {
    return present(t) && t->scalar_type() == ScalarType::Double;
}

// Whether a parameter can be read in packs of `pack` elements.
inline bool packs_of(const std::optional<Tensor>& t, int pack) {
    return !present(t) || (!is_double(t) &&
                           aligned(t->data_ptr(), std::min<size_t>(16, pack * t->element_size())));
}

// Rounds as the forward does before the weight, where it does.
template <class A>
__device__ inline A round_if(const NormParams<A>& p, A v) {
    if (p.round_first) {
        with_element<false>(p.rounding, [&](auto* type) {
            using T = std::remove_pointer_t<decltype(type)>;
            if constexpr (sizeof(T) == 2) v = static_cast<A>(to_acc(from_acc<T>(v)));
        });
    }
    return v;
}

// How a row is spread: `threads` a row, each with `packs` of 16 bytes; a block has one row, or
// several of a warp each.
template <int threads_, int packs_, int rows_ = 1>
struct RowShape {
    static constexpr int threads = threads_, packs = packs_, rows = rows_, block = threads * rows;
    static_assert(rows == 1 || threads == 32);
    // The row of a thread in a block that has the `i`-th ones.
    __device__ static int64_t of_thread(unsigned i) {
        return rows == 1 ? i : int64_t{i} * rows + threadIdx.x / threads;
    }
    // Its place among those of the row.
    __device__ static int lane() {
        return static_cast<int>(rows == 1 ? threadIdx.x : threadIdx.x % threads);
    }
};

// Calls f with the first shape, from the smallest on, that holds rows of `packs`; false where none
// does.
template <class... Shapes>
struct RowShapes {
    template <class F>
    static bool with(int64_t packs, F&& f) {
        return ((packs <= Shapes::threads * Shapes::packs && (f(Shapes{}), true)) || ...);
    }
};

// The packs of N elements of a row that a thread has.
template <class Shape, int N>
struct RowPacks {
    int columns;

    __device__ static int column(int k) { return (k * Shape::threads + Shape::lane()) * N; }
    // Calls f(k, column) for those that the row has.
    template <class F>
    __device__ void each(F&& f) const {
#pragma unroll
        for (int k = 0; k < Shape::packs; ++k) {
            if (column(k) < columns) f(k, column(k));
        }
    }
};

// Kernels are compiled for no activation and for relu, both where all tensors are of the rows'
// type, and for any, with Llama's rounding, which costs registers.
enum class Fused { none, relu, any };

template <class F>
bool with_fused(const NormOptions& o, ScalarType rows,
                std::initializer_list<std::optional<Tensor>> others, F&& f) {
    bool any = o.round_first;
    for (const auto& other : others) {
        any = any || (present(other) && other->scalar_type() != rows);
    }
    if (!any && o.activation == Activation::none) {
        return f(std::integral_constant<Fused, Fused::none>{});
    }
    if (!any && o.activation == Activation::relu) {
        return f(std::integral_constant<Fused, Fused::relu>{});
    }
    return f(std::integral_constant<Fused, Fused::any>{});
}

// Calls f with the activation as a type, unless there is none.
template <Fused fused, class F>
__device__ inline void dispatch_fused(Activation activation, F&& f) {
    if constexpr (fused == Fused::relu) f(std::integral_constant<Activation, Activation::relu>{});
    if constexpr (fused == Fused::any) dispatch_common(activation, f);
}

// g *= the activation's derivative, where v holds normalised elements.
template <Fused fused, int N>
__device__ inline void differentiate(const NormParams<float>& p, const float (&v)[N],
                                     const float (&weight)[N], const float (&bias)[N],
                                     float (&g)[N]) {
    dispatch_fused<fused>(p.activation, [&](auto act) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
            g[j] *= activate_grad<act.value>(fmaf(round_if(p, v[j]), weight[j], bias[j]));
        }
    });
}

// The compiler no longer knows what is in 16 bytes, so that it does not keep them unpacked.
template <class P>
__device__ inline void forget(P& pack) {
    static_assert(sizeof(P) == 16);
    auto& words = reinterpret_cast<uint4&>(pack);
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}

// A parameter's elements for this thread's columns; one that is absent is 1 or 0 everywhere. They
// stay packed in registers, as floats they would not fit; those of another type are read when asked
// for.
template <class T, class Shape, Fused fused, int absent>
struct RowParameter {
    static constexpr int N = kPack<T>;
    static constexpr bool kept = fused != Fused::any;
    // the bits of ones, two of them where they are that small
    static constexpr unsigned kOnes = std::is_same_v<T, float>    ? 0x3f800000
                                      : std::is_same_v<T, __half> ? 0x3c003c00
                                                                  : 0x3f803f80;
    static constexpr unsigned kFill = absent == 1 ? kOnes : 0;
    Untyped from;
    uint4 words[kept ? Shape::packs : 1];

    __device__ explicit RowParameter(const Untyped& from) : from(from) {}
    __device__ RowParameter(const Untyped& from, const RowPacks<Shape, N>& in_row) : from(from) {
        read(in_row);
    }
    // Before the first `get`.
    __device__ void read(const RowPacks<Shape, N>& in_row) {
        if constexpr (kept) {
#pragma unroll
            for (int k = 0; k < Shape::packs; ++k) {
                const T* at = static_cast<const T*>(from.data) + in_row.column(k);
                words[k] = {kFill, kFill, kFill, kFill};
                if (from && in_row.column(k) < in_row.columns) {
                    words[k] = *reinterpret_cast<const uint4*>(at);
                }
            }
        }
    }
    // The k-th pack, which is at column i.
    __device__ void get(int k, int i, float (&values)[N]) {
        if constexpr (kept) {
            // in a loop they would be unpacked ahead of it, into more registers than there are
            if constexpr (fused == Fused::relu) forget(words[k]);
            accumulators(reinterpret_cast<const Pack<T, N>&>(words[k]), values);
        } else if (from) {
            load_pack(from, i, values);
        } else {
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] = absent;
        }
    }
};

// What is added to a weight; layer_norm knows no such offset.
template <bool centred>
__device__ inline float weight_offset(const NormParams<float>& p) {
    return !centred && p.weight ? p.offset : 0.f;
}

// Sums over rows that a block writes: for the weight, and for the bias that only layer_norm has.
template <bool centred>
constexpr int kPlanes = centred ? 2 : 1;

// A mean in float is not exact; what it lost is the mean of the deviations. 16-bit rows are not
// exact to that degree themselves.
template <class T>
constexpr bool kExactMean = sizeof(T) == 4;

}  // namespace fusewright::cuda
