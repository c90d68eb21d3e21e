// haar2d: one level of the Haar transform, (N, C, H, W) to (N, 4C, ceil(H/2), ceil(W/2)).
//
// haar2d_forward: 0 x, 1 y, 2 FwHaarArgs; haar_dispatch.
//   Its gradient is ihaar2d_forward on grad_y.
#include "haar.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void haar2d_forward(
    const device T* x [[buffer(0)]], device T* y [[buffer(1)]],
    constant FwHaarArgs& args [[buffer(2)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    haar_forward<T, 2>(x, y, args, at, grid);
}
FW_KERNELS("haar2d_forward", haar2d_forward)
