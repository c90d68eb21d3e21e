#include "cpu/norm_backward.h"
#include "prototypes.h"

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor, Tensor> k::layer_norm(const Tensor& x,
                                                         const std::optional<Tensor>& weight,
                                                         const std::optional<Tensor>& bias,
                                                         const std::optional<Tensor>& residual,
                                                         int64_t norm_dims, double eps,
                                                         const std::string& activation) {
    return norm_forward<true>("layer_norm", x, weight, bias, residual, 0, false,
                              NormOptions{norm_dims, eps, parse_activation(activation)});
}

std::tuple<Tensor, Tensor, Tensor> k::layer_norm_backward(
    const std::optional<Tensor>& grad_y, const std::optional<Tensor>& grad_residual_out,
    const Tensor& x, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const Tensor& mean, const Tensor& rstd, int64_t norm_dims, double eps,
    const std::string& activation, int64_t needs) {
    return norm_backward<true>("layer_norm", grad_y, grad_residual_out, x, weight, bias, mean, rstd,
                               0, false, NormOptions{norm_dims, eps, parse_activation(activation)},
                               needs);
}
