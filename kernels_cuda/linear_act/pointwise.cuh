// What surrounds the products: the activation of a product that was made elsewhere, and the
// gradient at a product with the sum of its columns in the same pass.
#pragma once

#include "column_sums.cuh"
#include "linear_act/fast_activation.cuh"

namespace fusewright::cuda {

constexpr int kPointwiseThreads = 256;

// One access also where the compiler has the elements in many registers and would make one of each.
template <class P>
__device__ __forceinline__ void store_whole(void* to, const P& values) {
    if constexpr (sizeof(P) == 16) {
        uint4 bits;
        memcpy(&bits, &values, 16);
        __stcg(static_cast<uint4*>(to), bits);
    } else {
        *static_cast<P*>(to) = values;
    }
}

// y = act(pre), elements of dense tensors, which may be the same.
template <class T, int pack>
__global__ void __launch_bounds__(kPointwiseThreads)
    activation_kernel(const T* pre, T* y, int64_t packs, Activation activation) {
    const int64_t stride = int64_t{gridDim.x} * kPointwiseThreads;
    for (int64_t i = int64_t{blockIdx.x} * kPointwiseThreads + threadIdx.x; i < packs;
         i += stride) {
        auto values = reinterpret_cast<const Pack<T, pack>*>(pre)[i];
        dispatch(activation, [&](auto act) {
#pragma unroll
            for (int j = 0; j < pack; ++j) {
                values[j] = from_acc<T>(activate_for<T, act.value>(to_acc(values[j])));
            }
        });
        store_whole(y + i * pack, values);
    }
}

// Calls f with how many elements of T a thread takes at once, as a type.
template <class T, class F>
void with_pack(bool packs, F&& f) {
    if (packs) {
        f(std::integral_constant<int, kPack<T>>{});
    } else {
        f(std::integral_constant<int, 1>{});
    }
}

inline void activation_of(const Launch& launch, Activation activation, const Tensor& pre,
                          const Tensor& y) {
    if (activation == Activation::none && pre.data_ptr() == y.data_ptr()) return;
    with_native(pre.scalar_type(), "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        const bool packs =
            pre.numel() % kPack<T> == 0 && aligned(pre.data_ptr(), 16) && aligned(y.data_ptr(), 16);
        with_pack<T>(packs, [&](auto pack) {
            const int64_t n = pre.numel() / pack.value;
            const auto blocks = std::min<int64_t>(ceil_div<int64_t>(n, kPointwiseThreads),
                                                  int64_t{16} * launch.processors());
            launch(activation_kernel<T, pack.value>, dim3(static_cast<unsigned>(blocks)),
                   dim3(kPointwiseThreads), 0, data<const T>(pre), data<T>(y), n, activation);
        });
    });
}

constexpr int kLanes = 32, kLines = 8;  // of a block: packs of columns, rows at a time
constexpr int kBatch = 2;               // rows of a thread under way

// dpre = dy act'(pre), and the sums of each column over a block's rows: into `partial`, or, where
// one block has them all, into `dbias`. dpre may be dy or pre; without an activation neither pre
// nor dpre is touched, without a place for sums none are kept.
template <class T, int pack>
__global__ void __launch_bounds__(kLanes* kLines, sizeof(acc_t<T>) == 4 ? 3 : 2)
    derivative_kernel(const T* dy, const T* pre, T* dpre, acc_t<T>* partial, Untyped dbias,
                      int64_t rows, int64_t columns, Activation activation) {
    using A = acc_t<T>;
    using P = Pack<T, pack>;
    __shared__ A sums[kLines][kLanes][pack];
    const int64_t column = (int64_t{blockIdx.x} * kLanes + threadIdx.x) * pack;
    const int64_t first = rows * blockIdx.y / gridDim.y;
    const int64_t last = rows * (int64_t{blockIdx.y} + 1) / gridDim.y;
    A sum[pack] = {};
    for (int64_t row = first + threadIdx.y; row < last && column < columns;
         row += kBatch * kLines) {
        P grad[kBatch] = {}, input[kBatch] = {};
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            const int64_t at = (row + i * kLines) * columns + column;
            if (row + i * kLines < last) {
                grad[i] = *reinterpret_cast<const P*>(dy + at);
                if (activation != Activation::none) {
                    input[i] = *reinterpret_cast<const P*>(pre + at);
                }
            }
        }
        A values[kBatch][pack];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
#pragma unroll
            for (int j = 0; j < pack; ++j) values[i][j] = to_acc(grad[i][j]);
        }
        dispatch(activation, [&](auto act) {
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
#pragma unroll
                for (int j = 0; j < pack; ++j) {
                    values[i][j] *= derivative_for<T, act.value>(to_acc(input[i][j]));
                }
            }
        });
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
            if (row + i * kLines < last) {
                P rounded;
#pragma unroll
                for (int j = 0; j < pack; ++j) {
                    rounded[j] = from_acc<T>(values[i][j]);
                    sum[j] += values[i][j];
                }
                if (activation != Activation::none) {
                    store_whole(dpre + (row + i * kLines) * columns + column, rounded);
                }
            }
        }
    }
    if (partial == nullptr && !dbias) return;
#pragma unroll
    for (int j = 0; j < pack; ++j) sums[threadIdx.y][threadIdx.x][j] = sum[j];
    __syncthreads();
    const A* flat = &sums[0][0][0];
    for (int i = threadIdx.y * kLanes + threadIdx.x; i < kLanes * pack; i += kLanes * kLines) {
        const int64_t c = int64_t{blockIdx.x} * kLanes * pack + i;
        if (c >= columns) break;
        A total = flat[i];
#pragma unroll
        for (int line = 1; line < kLines; ++line) total += flat[line * kLanes * pack + i];
        if (dbias) {
            store_one(dbias, c, total);
        } else {
            partial[blockIdx.y * columns + c] = total;
        }
    }
}

// dpre = dy act'(pre), rows × columns, all dense; returns the sum of its columns, shaped as `bias`,
// where that is asked for.
inline std::optional<Tensor> derivative_of(const Launch& launch, Activation activation,
                                           const Tensor& dy, const Tensor& pre, const Tensor& dpre,
                                           int64_t rows, int64_t columns,
                                           const std::optional<Tensor>& bias) {
    std::optional<Tensor> result;
    if (activation == Activation::none && !present(bias)) return result;
    with_native(dy.scalar_type(), "linear_act", [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const bool packs = columns % kPack<T> == 0 && aligned(dy.data_ptr(), 16) &&
                           aligned(pre.data_ptr(), 16) && aligned(dpre.data_ptr(), 16);
        with_pack<T>(packs, [&](auto pack) {
            const auto kernel = derivative_kernel<T, pack.value>;
            const int64_t strips = ceil_div<int64_t>(columns, kLanes * pack.value);
            // one round of blocks: every one more costs a partial sum
            const int64_t wanted =
                launch.resident(kernel, kLanes * kLines) / std::max<int64_t>(1, strips);
            const int64_t parts =
                std::max<int64_t>(1, std::min(wanted, ceil_div<int64_t>(rows, kBatch * kLines)));
            std::optional<Tensor> partial;
            Untyped dbias;
            if (present(bias) && parts == 1) {
                result = fresh(*bias, {columns});
                dbias = Untyped(*result);
            } else if (present(bias)) {
                partial = fresh(dy, {parts, columns}, acc_dtype(dy.scalar_type()));
            }
            launch(kernel, dim3(static_cast<unsigned>(strips), static_cast<unsigned>(parts)),
                   dim3(kLanes, kLines), 0, data<const T>(dy), data<const T>(pre), data<T>(dpre),
                   data<A>(partial), dbias, rows, columns, activation);
            if (partial) {
                result = column_sums(launch, *bias, data<const A>(*partial), parts, columns);
            }
        });
    });
    return result;
}

}  // namespace fusewright::cuda
