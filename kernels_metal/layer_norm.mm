#include "host/norm.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using fusewright::metal::NormOptions;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> k::layer_norm(const Tensor& x,
                                                         const std::optional<Tensor>& weight,
                                                         const std::optional<Tensor>& bias,
                                                         const std::optional<Tensor>& residual,
                                                         int64_t norm_dims, double eps,
                                                         const std::string& activation) {
    return norm_forward<true>(
        x, weight, bias, residual,
        NormOptions{"layer_norm", norm_dims, eps, parse_activation(activation)});
}

std::tuple<Tensor, Tensor, Tensor> k::layer_norm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_residual_out,
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& rstd, int64_t norm_dims, double eps,
    const std::string& activation, int64_t needs) {
    return norm_backward<true>(
        grad_y, grad_residual_out, x, weight, bias, mean, rstd,
        NormOptions{"layer_norm", norm_dims, eps, parse_activation(activation)}, needs);
}
