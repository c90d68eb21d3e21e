#include "host/haar.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::haar1d(const Tensor& x, int64_t width) {
    return haar_forward<1>("haar1d", "haar1d_forward", x, 1, width);
}

Tensor k::haar1d_backward(const Tensor& grad_y, int64_t width, int64_t) {
    return haar_inverse<1>("haar1d", "ihaar1d_forward", grad_y, 1, width);
}
