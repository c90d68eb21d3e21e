// The Haar transform and its inverse, one level, in one or two dimensions: the gradient of each is
// the other. A thread makes one block of four (two) pixels.
#pragma once

#include "check.h"
#include "element.cuh"
#include "launch.h"

namespace fusewright::cuda {

constexpr int kHaarThreads = 256;

// (N, C, H, W) or, with H = 1, (N, C, L); sizes of the image, strides of either tensor.
struct HaarShape {
    int64_t n, channels, height, width;
    int64_t image[4], bands[4];
};

template <class A>
__device__ inline A haar_scale(int dims) {
    return dims == 2 ? A(0.5) : A(0.70710678118654752);
}

template <class T, int dims, bool inverse>
__global__ void __launch_bounds__(kHaarThreads) haar_kernel(HaarShape s, const T* from, T* to) {
    using A = acc_t<T>;
    const int64_t h = dims == 2 ? (s.height + 1) / 2 : 1, w = (s.width + 1) / 2;
    const int64_t total = s.n * s.channels * h * w;
    for (int64_t i = int64_t{blockIdx.x} * kHaarThreads + threadIdx.x; i < total;
         i += int64_t{gridDim.x} * kHaarThreads) {
        const int64_t j = i % w, r = i / w % h, plane = i / w / h;
        const int64_t c = plane % s.channels, n = plane / s.channels;
        const bool right = 2 * j + 1 < s.width, below = dims == 2 && 2 * r + 1 < s.height;
        const int64_t image = n * s.image[0] + c * s.image[1] +
                              (dims == 2 ? 2 * r : 0) * s.image[2] + 2 * j * s.image[3];
        const int64_t band =
            n * s.bands[0] + (c << dims) * s.bands[1] + r * s.bands[2] + j * s.bands[3];
        const bool there[4] = {true, right, below, right && below};
        const int64_t offsets[4] = {0, s.image[3], s.image[2], s.image[2] + s.image[3]};
        A v[4] = {0, 0, 0, 0};
#pragma unroll
        for (int k = 0; k < 1 << dims; ++k) {
            if (inverse) {
                v[k] = to_acc(from[band + k * s.bands[1]]);
            } else if (there[k]) {
                v[k] = to_acc(from[image + offsets[k]]);
            }
        }
        A out[4];
        if constexpr (dims == 2) {
            // its own inverse but for the order: band 1 is high along H, pixel 1 along W
            const A a = v[0], b = inverse ? v[2] : v[1], c2 = inverse ? v[1] : v[2], d = v[3];
            out[0] = a + b + c2 + d;
            const A across = a - b + c2 - d, along = a + b - c2 - d;
            out[1] = inverse ? across : along;
            out[2] = inverse ? along : across;
            out[3] = a - b - c2 + d;
        } else {
            out[0] = v[0] + v[1];
            out[1] = v[0] - v[1];
        }
#pragma unroll
        for (int k = 0; k < 1 << dims; ++k) {
            const T value = from_acc<T>(out[k] * haar_scale<A>(dims));
            if (!inverse) {
                to[band + k * s.bands[1]] = value;
            } else if (there[k]) {
                to[image + offsets[k]] = value;
            }
        }
    }
}

template <int dims>
void set_strides(const Tensor& t, int64_t (&strides)[4]) {
    strides[0] = t.stride(0), strides[1] = t.stride(1);
    strides[2] = dims == 2 ? t.stride(2) : 0, strides[3] = t.stride(dims + 1);
}

template <int dims, bool inverse>
Tensor haar_run(const char* op, const Tensor& x, const Tensor& y, HaarShape s) {
    const Launch launch(x);
    set_strides<dims>(inverse ? y : x, s.image);
    set_strides<dims>(inverse ? x : y, s.bands);
    with_native(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        const int64_t blocks = ceil_div<int64_t>(x.numel() >> dims, kHaarThreads) + 1;
        const int64_t grid = x.numel() == 0 || y.numel() == 0
                                 ? 0
                                 : std::min<int64_t>(blocks, launch.processors() * 32);
        launch(haar_kernel<T, dims, inverse>, dim3(static_cast<unsigned>(grid)), dim3(kHaarThreads),
               0, s, data<const T>(x), data<T>(y));
    });
    return y;
}

template <int dims>
Tensor haar_forward(const char* op, const Tensor& x, int64_t height, int64_t width) {
    check_rank(x, dims + 2, op, "x");
    FW_CHECK((dims == 1 || height == x.size(2)) && width == x.size(dims + 1), op,
             "x must be an image of ", height, " x ", width);
    std::vector<int64_t> shape{x.size(0), x.size(1) << dims};
    if (dims == 2) shape.push_back((height + 1) / 2);
    shape.push_back((width + 1) / 2);
    return haar_run<dims, false>(op, x, fresh(x, shape),
                                 {x.size(0), x.size(1), height, width, {}, {}});
}

template <int dims>
Tensor haar_inverse(const char* op, const Tensor& x, int64_t height, int64_t width) {
    FW_CHECK(x.dim() == dims + 2 && x.size(1) % (1 << dims) == 0, op, "coefficients must have ",
             dims + 2, " dimensions and a multiple of ", 1 << dims, " channels");
    FW_CHECK(height >= 0 && width >= 0 && (dims == 1 || (height + 1) / 2 == x.size(2)) &&
                 (width + 1) / 2 == x.size(dims + 1),
             op, "the size must be that of the coefficients, doubled, or one less");
    std::vector<int64_t> shape{x.size(0), x.size(1) >> dims};
    if (dims == 2) shape.push_back(height);
    shape.push_back(width);
    return haar_run<dims, true>(
        op, x, fresh(x, shape),
        {x.size(0), x.size(1) >> dims, dims == 2 ? height : 1, width, {}, {}});
}

}  // namespace fusewright::cuda
