#include "host/wtconv.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::wtconv2d(const Tensor& x, const Tensor& base_weight,
                   const std::optional<Tensor>& base_bias, const Tensor& base_scale,
                   const std::vector<Tensor>& wavelet_weights,
                   const std::vector<Tensor>& wavelet_scales) {
    return wtconv_forward<2>("wtconv2d", x, base_weight, base_bias, base_scale, wavelet_weights,
                             wavelet_scales);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, std::vector<Tensor>, std::vector<Tensor>>
k::wtconv2d_backward(const Tensor& grad_y, const Tensor& x, const Tensor& base_weight,
                     const std::optional<Tensor>& base_bias, const Tensor& base_scale,
                     const std::vector<Tensor>& wavelet_weights,
                     const std::vector<Tensor>& wavelet_scales, int64_t needs) {
    return wtconv_backward<2>("wtconv2d", grad_y, x, base_weight, base_bias, base_scale,
                              wavelet_weights, wavelet_scales, needs);
}
