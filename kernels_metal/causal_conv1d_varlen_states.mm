// The last inputs of every sequence of a packed batch, and the scatter that is their gradient.

#include "host/dtype.h"
#include "host/encode.h"
#include "prototypes.h"

namespace fusewright::metal {
namespace {

constexpr const char* kOp = "causal_conv1d_varlen_states";

struct Call {
    Tensor bounds;
    FwVarlenArgs args{};
    std::string kernel;

    Call(const char* part, const Tensor& x, const Tensor& cu_seqlens, int64_t state_len)
        : kernel(std::string(kOp) + part + suffix((check_rank(x, 2, kOp, "x"), x), kOp)) {
        check_rank(cu_seqlens, 1, kOp, "cu_seqlens");
        FW_CHECK(cu_seqlens.numel() > 0, kOp, "cu_seqlens.numel() is 0, must be at least 1");
        FW_CHECK(state_len >= 0, kOp, "state_len is ", state_len, ", must be >= 0");
        bounds = as_contiguous(cu_seqlens);
        args.total = x.size(0), args.channels = x.size(1);
        args.sequences = bounds.numel() - 1, args.state_len = state_len;
        args.bounds_dtype = integer_dtype_of(bounds, kOp, "cu_seqlens");
    }

    std::vector<int64_t> state_shape() const {
        return {args.sequences, args.channels, args.state_len};
    }
};

}  // namespace
}  // namespace fusewright::metal

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::causal_conv1d_varlen_states(const Tensor& x, const Tensor& cu_seqlens,
                                      int64_t state_len) {
    Call call("_forward", x, cu_seqlens, state_len);
    const Tensor y = fresh(x, call.state_shape());
    if (y.numel() == 0) return y;
    set_strides(call.args.x, x);
    set_strides(call.args.y, y);
    encode([&](const Encoder& run) {
        run(call.kernel, varlen_forward_dispatch(call.args), {x, call.bounds, y}, call.args);
    });
    return y;
}

Tensor k::causal_conv1d_varlen_states_backward(const Tensor& grad_y, const Tensor& x,
                                               const Tensor& cu_seqlens, int64_t state_len,
                                               int64_t) {
    Call call("_backward", x, cu_seqlens, state_len);
    check_shape(grad_y, call.state_shape(), kOp, "grad_y");
    check_dtype(grad_y, x.scalar_type(), kOp, "grad_y");
    const Tensor dx = fresh_like(x);
    if (dx.numel() == 0) return dx;
    set_strides(call.args.x, dx);
    set_strides(call.args.y, grad_y);
    encode([&](const Encoder& run) {
        run(call.kernel, varlen_backward_dispatch(call.args), {grad_y, call.bounds, dx}, call.args);
    });
    return dx;
}
