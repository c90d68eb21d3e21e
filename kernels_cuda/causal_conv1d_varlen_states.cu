// The last inputs of every sequence of a packed batch, and the gather that is their gradient. The
// bounds stay on the device: a sequence whose bounds decrease or leave x has states of NaN.

#include "causal_conv1d.cuh"
#include "prototypes.h"

namespace fusewright::cuda {
namespace {

constexpr const char* kOp = "causal_conv1d_varlen_states";
constexpr int kThreads = 256;

struct Packed {
    int64_t total, channels, sequences, state_len;
    Integers bounds;
};

// x (total, channels) and the states (sequences, channels, state_len), with their strides.
template <class T>
struct Rows {
    T* data;
    int64_t row, d;

    explicit Rows(const Tensor& t)
        : data(static_cast<T*>(t.data_ptr())), row(t.stride(0)), d(t.stride(1)) {}
    __device__ T& at(int64_t i, int64_t channel) const { return data[i * row + channel * d]; }
};

template <class T>
__global__ void __launch_bounds__(kThreads) varlen_states(Rows<const T> x, T* y, Packed p) {
    const int64_t n = p.sequences * p.state_len * p.channels, step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
        const int64_t d = i % p.channels, place = i / p.channels % p.state_len;
        const int64_t sequence = i / p.channels / p.state_len;
        const int64_t begin = p.bounds(sequence), end = p.bounds(sequence + 1);
        const int64_t row = end - p.state_len + place;
        const bool wrong = begin < 0 || end < begin || end > p.total;
        y[(sequence * p.channels + d) * p.state_len + place] = wrong          ? T(NAN)
                                                               : row >= begin ? x.at(row, d)
                                                                              : T(0.f);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) varlen_rows(View<const T> dy, Rows<T> dx, Packed p) {
    const int64_t n = p.total * p.channels, step = int64_t{gridDim.x} * kThreads;
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
        const int64_t row = i / p.channels, d = i % p.channels;
        int64_t low = 0, high = p.sequences;  // the first sequence that ends after the row
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (p.bounds(middle + 1) > row) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        T value = T(0.f);
        if (low < p.sequences && p.bounds(low) <= row) {
            const int64_t place = row - p.bounds(low + 1) + p.state_len;
            if (place >= 0) value = dy.at(low, d, place);
        }
        dx.at(row, d) = value;
    }
}

Packed packed_of(const Tensor& x, const Tensor& cu_seqlens, int64_t state_len) {
    FW_CHECK(x.dim() == 2 && state_len >= 0, kOp, "x must be (total, channels)");
    FW_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.numel() > 0, kOp,
             "cu_seqlens must be (sequences + 1,)");
    return {x.size(0), x.size(1), cu_seqlens.numel() - 1, state_len, Integers(cu_seqlens)};
}

dim3 blocks_of(int64_t n) {
    return dim3(
        static_cast<unsigned>(std::min<int64_t>(ceil_div<int64_t>(n, kThreads), int64_t{1} << 30)));
}

}  // namespace
}  // namespace fusewright::cuda

namespace k = fusewright::cuda;
using torch::stable::Tensor;

Tensor k::causal_conv1d_varlen_states(const Tensor& x, const Tensor& cu_seqlens,
                                      int64_t state_len) {
    const Launch launch(x);
    const Packed p = packed_of(x, cu_seqlens, state_len);
    Tensor y = fresh(x, {p.sequences, p.channels, state_len});
    with_native(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        launch(varlen_states<T>, blocks_of(y.numel()), dim3(kThreads), 0, Rows<const T>(x),
               data<T>(y), p);
    });
    return y;
}

Tensor k::causal_conv1d_varlen_states_backward(const Tensor& grad_y, const Tensor& x,
                                               const Tensor& cu_seqlens, int64_t state_len,
                                               int64_t needs) {
    const Packed p = packed_of(x, cu_seqlens, state_len);
    if (!(needs & 1)) return none_like(x);
    const Launch launch(x);
    FW_CHECK(grad_y.dim() == 3 && grad_y.size(0) == p.sequences && grad_y.size(1) == p.channels &&
                 grad_y.size(2) == state_len,
             kOp, "grad_y must have the shape of y");
    const Tensor dy = in_dtype(grad_y, x.scalar_type());
    Tensor dx = fresh_like(x);
    with_native(x.scalar_type(), kOp, [&](auto type) {
        using T = typename decltype(type)::type;
        launch(varlen_rows<T>, blocks_of(x.numel()), dim3(kThreads), 0, View<const T>(dy),
               Rows<T>(dx), p);
    });
    return dx;
}
