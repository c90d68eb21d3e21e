// The rows of layer_norm (`centred`) and rms_norm. A row is read once into registers by one warp or
// one block; rows that don't fit, or can't be read in packs, take the plain kernel of
// norm_plain.cuh.
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

// How a row is spread: `threads` a row, each with `packs` of 16 bytes; a block has as many rows as
// fill it. One row of `stages` is worked on while the others are on their way.
template <int threads_, int packs_, int stages_ = 3>
struct RowShape {
    static constexpr int threads = threads_, packs = packs_, stages = stages_;
    static constexpr int block = threads == 32 ? 128 : threads, rows = block / threads;
};

// Blocks of a shape on a multiprocessor that registers are to suffice for.
template <class Shape>
constexpr int resident_blocks(int threads) {
    return Shape::packs == 2 ? threads / Shape::block : 1;
}

// Calls f with the shape for rows of `packs`; false where none is large enough.
template <class F>
bool with_row_shape(int64_t packs, F&& f) {
    if (packs <= 32 * 2) {
        f(RowShape<32, 2>{});
    } else if (packs <= 64 * 2) {
        f(RowShape<64, 2>{});
    } else if (packs <= 256 * 2) {
        f(RowShape<256, 2>{});
    } else if (packs <= 512 * 2) {
        f(RowShape<512, 2>{});
    } else if (packs <= 512 * 4) {
        f(RowShape<512, 4, 2>{});
    } else {
        return false;
    }
    return true;
}

// Rows of some tensors on their way into shared memory, where a thread finds again what it asked
// for itself.
template <class T, class Shape>
struct RowPipe {
    using Packed = Pack<T, kPack<T>>;
    static constexpr int kStages = Shape::stages;
    Packed* slots;
    int columns, streams;

    // of the rows, and of as many parameters behind them
    static constexpr size_t bytes(int streams, int parameters) {
        return (sizeof(Packed) * kStages * streams + sizeof(float) * kPack<T> * parameters) *
               Shape::packs * Shape::block;
    }
    __device__ int column(int k) const {
        return (k * Shape::threads + static_cast<int>(threadIdx.x) % Shape::threads) * kPack<T>;
    }
    __device__ Packed& slot(int stage, int stream, int k) const {
        return slots[((stage * streams + stream) * Shape::packs + k) * Shape::block + threadIdx.x];
    }
    // Starts a row whose first element for this thread is at `from`; `done` closes what belongs
    // together.
    __device__ void fetch(int stage, int stream, const T* from) const {
        const auto to = static_cast<unsigned>(__cvta_generic_to_shared(&slot(stage, stream, 0)));
#pragma unroll
        for (int k = 0; k < Shape::packs; ++k) {
            if (column(k) < columns) {
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                                 to + k * Shape::block * static_cast<unsigned>(sizeof(Packed))),
                             "l"(from + k * Shape::threads * kPack<T>));
            }
        }
    }
    __device__ static void done() { asm volatile("cp.async.commit_group;"); }
    // Waits for the oldest rows.
    __device__ static void wait() {
        asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    }
    // Calls f(k, column) for the packs of this thread that the row has.
    template <class F>
    __device__ void each(F&& f) const {
#pragma unroll
        for (int k = 0; k < Shape::packs; ++k) {
            if (column(k) < columns) f(k, column(k));
        }
    }
};

// Where a tensor's next row is fetched from.
template <class T>
struct RowCursor {
    const T* at;
    int64_t step;

    __device__ RowCursor(const T* base, int64_t stride, int64_t row, int64_t rows, int column)
        : at(base + row * stride + column), step(rows * stride) {}
    __device__ const T* next() {
        const T* now = at;
        at += step;
        return now;
    }
};

// A parameter's elements for this thread's columns, as floats: in registers, or, where these don't
// suffice, in shared memory behind the rows. `absent` stands for one that is not there.
template <class T, class Shape, bool in_registers>
struct RowParameter {
    static constexpr int N = kPack<T>, fours = N / 4;
    float kept[in_registers ? Shape::packs : 1][N];
    float4* slots = nullptr;
    float absent;

    __device__ RowParameter(const RowPipe<T, Shape>& pipe, int place, const Untyped& t,
                            float offset, float absent)
        : absent(absent) {
        if (!in_registers && t) {
            auto* behind = pipe.slots + Shape::stages * pipe.streams * Shape::packs * Shape::block;
            slots = reinterpret_cast<float4*>(behind) +
                    place * Shape::packs * fours * Shape::block + threadIdx.x;
        }
#pragma unroll
        for (int k = 0; k < Shape::packs; ++k) {
            float values[N];
            const int i = pipe.column(k);
            const bool there = t && i < pipe.columns;
            if (there) load_pack(t, i, values);
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] = there ? values[j] + offset : absent;
            put(k, values);
        }
    }
    __device__ void put(int k, const float (&values)[N]) {
        if constexpr (in_registers) {
#pragma unroll
            for (int j = 0; j < N; ++j) kept[k][j] = values[j];
        } else if (slots != nullptr) {
#pragma unroll
            for (int f = 0; f < fours; ++f) {
                slots[(k * fours + f) * Shape::block] = {values[4 * f], values[4 * f + 1],
                                                         values[4 * f + 2], values[4 * f + 3]};
            }
        }
    }
    __device__ void get(int k, float (&values)[N]) const {
        if constexpr (in_registers) {
#pragma unroll
            for (int j = 0; j < N; ++j) values[j] = kept[k][j];
        } else {
#pragma unroll
            for (int f = 0; f < fours; ++f) {
                const float4 v = slots != nullptr ? slots[(k * fours + f) * Shape::block]
                                                  : make_float4(absent, absent, absent, absent);
                values[4 * f] = v.x, values[4 * f + 1] = v.y;
                values[4 * f + 2] = v.z, values[4 * f + 3] = v.w;
            }
        }
    }
};

// f(k, j) for all elements of this thread, also those past the end of the row.
template <int packs, int N, class F>
__device__ inline void for_elements(F&& f) {
#pragma unroll
    for (int k = 0; k < packs; ++k) {
#pragma unroll
        for (int j = 0; j < N; ++j) f(k, j);
    }
}

// A mean in float is not exact; what it lost is the mean of the deviations. 16-bit rows are not
// exact to that degree themselves.
template <class T>
constexpr bool kExactMean = sizeof(T) == 4;

template <class T>
struct NormForward {
    const T* x;
    int64_t x_rows, residual_rows;  // from row to row
    Untyped residual, total;
    bool piped;  // the residual is of x's type, and comes the same way
    T* y;
    float *mean, *rstd;
};

// v += the residual, in a type R; what is normalised is the sum that is stored, rounding included.
template <class R, class T, class Pipe, class Other, int packs, int N>
__device__ inline void add_residual(const NormForward<T>& io, int64_t columns, int64_t row,
                                    const Pipe& pipe, const Other& other, float (&v)[packs][N]) {
    R* total = static_cast<R*>(io.total.data) + row * columns;
    pipe.each([&](int k, int i) {
        Pack<R, N> sums = other(k, i);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            sums[j] = from_acc<R>(v[k][j] + to_acc(sums[j]));
            v[k][j] = to_acc(sums[j]);
        }
        *reinterpret_cast<Pack<R, N>*>(total + i) = sums;
    });
}

// Kernels are compiled for no activation, for relu, and for any, with Llama's rounding, which costs
// registers.
enum class Fused { none, relu, any };

template <class F>
bool with_fused(const NormOptions& o, F&& f) {
    if (!o.round_first && o.activation == Activation::none) {
        return f(std::integral_constant<Fused, Fused::none>{});
    }
    if (!o.round_first && o.activation == Activation::relu) {
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

template <class T, bool centred, Fused fused, class Shape>
__global__ void __launch_bounds__(Shape::block,
                                  resident_blocks<Shape>(centred&& fused != Fused::any ? 1024
                                                                                       : 512))
    norm_forward_kernel(const __grid_constant__ NormForward<T> io,
                        const __grid_constant__ NormParams<float> p) {
    constexpr int N = kPack<T>, threads = Shape::threads, packs = Shape::packs;
    extern __shared__ __align__(16) char bytes[];
    __shared__ BlockScratch<threads, 2, float> scratch;
    int turn = 0;
    using Pipe = RowPipe<T, Shape>;
    const Pipe pipe{reinterpret_cast<typename Pipe::Packed*>(bytes), static_cast<int>(p.columns),
                    io.piped ? 2 : 1};
    const int64_t step = int64_t{gridDim.x} * Shape::rows;
    int64_t row = int64_t{blockIdx.x} * Shape::rows + threadIdx.x / threads, ahead = row;
    RowCursor<T> x(io.x, io.x_rows, row, step, pipe.column(0));
    RowCursor<T> residual(static_cast<const T*>(io.residual.data), io.residual_rows, row, step,
                          pipe.column(0));
    const auto fetch = [&](int stage) {
        if (ahead < p.rows) {
            pipe.fetch(stage, 0, x.next());
            if (io.piped) pipe.fetch(stage, 1, residual.next());
        }
        Pipe::done();
        ahead += step;
    };
#pragma unroll
    for (int s = 0; s < Pipe::kStages - 1; ++s) fetch(s);
    const RowParameter<T, Shape, !centred> weight(pipe, 0, p.weight, p.offset, 1.f);
    const RowParameter<T, Shape, !centred> bias(pipe, p.weight ? 1 : 0, p.bias, 0.f, 0.f);
    const float scale = 1.f / static_cast<float>(p.columns);
    for (int stage = 0; row < p.rows; row += step, stage = (stage + 1) % Pipe::kStages) {
        fetch((stage + Pipe::kStages - 1) % Pipe::kStages);
        Pipe::wait();
        float v[packs][N] = {};
        pipe.each([&](int k, int) { accumulators(pipe.slot(stage, 0, k), v[k]); });
        if (io.piped) {
            add_residual<T>(
                io, p.columns, row, pipe, [&](int k, int) { return pipe.slot(stage, 1, k); }, v);
        } else if (io.residual) {
            with_element<false>(io.residual.dtype, [&](auto* type) {
                using R = std::remove_pointer_t<decltype(type)>;
                const R* other = static_cast<const R*>(io.residual.data) + row * io.residual_rows;
                const auto load = [&](int, int i) {
                    return *reinterpret_cast<const Pack<R, N>*>(other + i);
                };
                add_residual<R>(io, p.columns, row, pipe, load, v);
            });
        }
        float sums[1] = {0};
        for_elements<packs, N>(
            [&](int k, int j) { sums[0] += centred ? v[k][j] : v[k][j] * v[k][j]; });
        block_sum(sums, scratch, turn);
        float square = sums[0] * scale, rest = 0;
        if constexpr (centred) {
            const float mean = square;
            float moments[2] = {0, 0};
            pipe.each([&](int k, int) {
#pragma unroll
                for (int j = 0; j < N; ++j) {
                    v[k][j] -= mean;
                    moments[0] += v[k][j] * v[k][j];
                    if (kExactMean<T>) moments[1] += v[k][j];
                }
            });
            block_sum(moments, scratch, turn);
            if (kExactMean<T>) rest = moments[1] * scale;
            square = moments[0] * scale - rest * rest;
            if (threadIdx.x % threads == 0) io.mean[row] = mean + rest;
        }
        const float rstd = rsqrtf(square + p.eps);
        if (threadIdx.x % threads == 0) io.rstd[row] = rstd;
        for_elements<packs, N>([&](int k, int j) { v[k][j] = (v[k][j] - rest) * rstd; });
        if (fused == Fused::any && p.round_first) {
            for_elements<packs, N>([&](int k, int j) { v[k][j] = to_acc(from_acc<T>(v[k][j])); });
        }
#pragma unroll
        for (int k = 0; k < packs; ++k) {
            float w[N], b[N] = {};
            weight.get(k, w);
            if constexpr (centred) bias.get(k, b);
#pragma unroll
            for (int j = 0; j < N; ++j) v[k][j] = fmaf(v[k][j], w[j], centred ? b[j] : 0.f);
        }
        dispatch_fused<fused>(p.activation, [&](auto act) {
            for_elements<packs, N>([&](int k, int j) { v[k][j] = activate<act.value>(v[k][j]); });
        });
        T* y = io.y + row * p.columns;
        pipe.each([&](int k, int i) { *reinterpret_cast<Pack<T, N>*>(y + i) = pack_of<T>(v[k]); });
    }
}

}  // namespace fusewright::cuda
