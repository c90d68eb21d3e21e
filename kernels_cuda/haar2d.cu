#include "haar.cuh"
#include "prototypes.h"

namespace k = fusewright::cuda;
using torch::stable::Tensor;

Tensor k::haar2d(const Tensor& x, int64_t height, int64_t width) {
    return haar_forward<2>("haar2d", x, height, width);
}

Tensor k::haar2d_backward(const Tensor& grad_y, int64_t height, int64_t width, int64_t) {
    return haar_inverse<2>("haar2d", grad_y, height, width);
}
