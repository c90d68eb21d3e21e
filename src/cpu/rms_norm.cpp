#include "cpu/norm_backward.h"
#include "prototypes.h"

namespace k = fusewright::cpu::FW_ISA;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor, Tensor> k::rms_norm(const Tensor& x, const std::optional<Tensor>& weight,
                                               const std::optional<Tensor>& residual,
                                               int64_t norm_dims, double eps,
                                               const std::string& activation, double weight_offset,
                                               bool round_first) {
    auto [y, total, mean, rstd] =
        norm_forward<false>("rms_norm", x, weight, std::nullopt, residual, weight_offset,
                            round_first, NormOptions{norm_dims, eps, parse_activation(activation)});
    return {y, total, rstd};
}

std::tuple<Tensor, Tensor> k::rms_norm_backward(const std::optional<Tensor>& grad_y,
                                                const std::optional<Tensor>& grad_residual_out,
                                                const Tensor& x,
                                                const std::optional<Tensor>& weight,
                                                const Tensor& rstd, int64_t norm_dims, double eps,
                                                const std::string& activation, double weight_offset,
                                                bool round_first, int64_t needs) {
    auto [dx, dweight, dbias] = norm_backward<false>(
        "rms_norm", grad_y, grad_residual_out, x, weight, std::nullopt, rstd, rstd, weight_offset,
        round_first, NormOptions{norm_dims, eps, parse_activation(activation)}, needs);
    return {dx, dweight};
}
