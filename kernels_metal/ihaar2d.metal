// ihaar2d: the inverse of haar2d, (N, 4C, ceil(H/2), ceil(W/2)) to (N, C, H, W); the sizes are
// those of the image.
//
// ihaar2d_forward: 0 coefficients, 1 y, 2 FwHaarArgs; haar_dispatch.
//   Its gradient is haar2d_forward on grad_y.
#include "haar.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void ihaar2d_forward(
    const device T* coefficients [[buffer(0)]], device T* y [[buffer(1)]],
    constant FwHaarArgs& args [[buffer(2)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    haar_inverse<T, 2>(coefficients, y, args, at, grid);
}
FW_KERNELS("ihaar2d_forward", ihaar2d_forward)
