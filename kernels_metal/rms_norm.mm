#include "host/norm.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using fusewright::metal::NormOptions;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor> k::rms_norm(const Tensor& x, const std::optional<Tensor>& weight,
                                               const std::optional<Tensor>& residual,
                                               int64_t norm_dims, double eps,
                                               const std::string& activation, double weight_offset,
                                               bool round_first) {
    const NormOptions options{"rms_norm",    norm_dims,  eps, parse_activation(activation),
                              weight_offset, round_first};
    auto [y, total, mean, rstd] = norm_forward<false>(x, weight, std::nullopt, residual, options);
    return {y, total, rstd};
}

std::tuple<Tensor, Tensor> k::rms_norm_backward(const std::optional<Tensor>& grad_y,
                                                const std::optional<Tensor>& grad_residual_out,
                                                const Tensor& x,
                                                const std::optional<Tensor>& weight,
                                                const Tensor& rstd, int64_t norm_dims, double eps,
                                                const std::string& activation, double weight_offset,
                                                bool round_first, int64_t needs) {
    const NormOptions options{"rms_norm",    norm_dims,  eps, parse_activation(activation),
                              weight_offset, round_first};
    auto [dx, dweight, dbias] = norm_backward<false>(grad_y, grad_residual_out, x, weight,
                                                     std::nullopt, rstd, rstd, options, needs);
    return {dx, dweight};
}
