// haar1d: one level of the Haar transform, (N, C, L) to (N, 2C, ceil(L/2)).
//
// haar1d_forward: 0 x, 1 y, 2 FwHaarArgs; haar_dispatch.
//   Its gradient is ihaar1d_forward on grad_y.
#include "haar.h"

template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void haar1d_forward(
    const device T* x [[buffer(0)]], device T* y [[buffer(1)]],
    constant FwHaarArgs& args [[buffer(2)]], uint3 at [[thread_position_in_grid]],
    uint3 grid [[threads_per_grid]]) {
    haar_forward<T, 1>(x, y, args, at, grid);
}
FW_KERNELS("haar1d_forward", haar1d_forward)
