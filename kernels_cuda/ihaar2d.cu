#include "haar.cuh"
#include "prototypes.h"

namespace k = fusewright::cuda;
using torch::stable::Tensor;

Tensor k::ihaar2d(const Tensor& x, int64_t height, int64_t width) {
    return haar_inverse<2>("ihaar2d", x, height, width);
}

Tensor k::ihaar2d_backward(const Tensor& grad_y, int64_t height, int64_t width, int64_t) {
    return haar_forward<2>("ihaar2d", grad_y, height, width);
}
