// ihaar1d: the inverse of haar1d, (N, 2C, ceil(L/2)) to (N, C, L); the sizes are those of the
// image.
//
// ihaar1d_forward: 0 coefficients, 1 y, 2 FwHaarArgs; haar_dispatch.
//   Its gradient is haar1d_forward on grad_y.
#include "haar.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void ihaar1d_forward(
    const device T* coefficients [[buffer(0)]], device T* y [[buffer(1)]],
    constant FwHaarArgs& args [[buffer(2)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    haar_inverse<T, 1>(coefficients, y, args, at, grid);
}
FW_KERNELS("ihaar1d_forward", ihaar1d_forward)
