#include "host/haar.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::haar2d(const Tensor& x, int64_t height, int64_t width) {
    return haar_forward<2>("haar2d", "haar2d_forward", x, height, width);
}

Tensor k::haar2d_backward(const Tensor& grad_y, int64_t height, int64_t width, int64_t) {
    return haar_inverse<2>("haar2d", "ihaar2d_forward", grad_y, height, width);
}
