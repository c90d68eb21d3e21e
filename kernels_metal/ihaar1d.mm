#include "host/haar.h"
#include "prototypes.h"

namespace k = fusewright::metal;
using torch::stable::Tensor;

Tensor k::ihaar1d(const Tensor& x, int64_t width) {
    return haar_inverse<1>("ihaar1d", "ihaar1d_forward", x, 1, width);
}

Tensor k::ihaar1d_backward(const Tensor& grad_y, int64_t width, int64_t) {
    return haar_forward<1>("ihaar1d", "haar1d_forward", grad_y, 1, width);
}
