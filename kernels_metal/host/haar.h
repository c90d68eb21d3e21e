// The Haar transform and its inverse, one level: the gradient of each is the other.
#pragma once

#include "host/dtype.h"
#include "host/encode.h"

namespace fusewright::metal {

template <int dims>
Tensor haar_run(const std::string& kernel, const Tensor& from, const Tensor& to, FwHaarArgs args) {
    if (from.numel() == 0 || to.numel() == 0) return to;
    args.stride_n = from.stride(0), args.stride_c = from.stride(1);
    args.stride_h = dims == 2 ? from.stride(2) : 0, args.stride_w = from.stride(dims + 1);
    encode([&](const Encoder& run) { run(kernel, haar_dispatch(args), {from, to}, args); });
    return to;
}

template <int dims>
std::vector<int64_t> image_shape(int64_t n, int64_t channels, int64_t height, int64_t width) {
    std::vector<int64_t> shape{n, channels};
    if (dims == 2) shape.push_back(height);
    shape.push_back(width);
    return shape;
}

// `kernel` is the transform's own or, for a gradient, that of the inverse's operator.
template <int dims>
Tensor haar_forward(const char* op, const std::string& kernel, const Tensor& x, int64_t height,
                    int64_t width) {
    check_rank(x, dims + 2, op, "x");
    const int64_t h = dims == 2 ? x.size(2) : 1, w = x.size(dims + 1);
    FW_CHECK(h == height && w == width, op, "x is an image of ", h, " x ", w, ", must be of ",
             height, " x ", width);
    const int64_t n = x.size(0), channels = x.size(1);
    const std::string name = kernel + suffix(x, op);
    const Tensor y =
        fresh(x, image_shape<dims>(n, channels << dims, (height + 1) / 2, (width + 1) / 2));
    return haar_run<dims>(name, x, y, {n * channels, channels, height, width, 0, 0, 0, 0});
}

template <int dims>
Tensor haar_inverse(const char* op, const std::string& kernel, const Tensor& x, int64_t height,
                    int64_t width) {
    constexpr int bands = 1 << dims;
    check_rank(x, dims + 2, op, "x");
    FW_CHECK(x.size(1) % bands == 0, op, "x.size(1) is ", x.size(1), ", must be a multiple of ",
             bands);
    const int64_t h = dims == 2 ? x.size(2) : 1, w = x.size(dims + 1);
    FW_CHECK(
        height >= 0 && width >= 0 && (width + 1) / 2 == w && (dims == 1 || (height + 1) / 2 == h),
        op, "the image is ", height, " x ", width, ", must be that of bands of ", h, " x ", w);
    const int64_t n = x.size(0), channels = x.size(1) / bands;
    const std::string name = kernel + suffix(x, op);
    const Tensor y = fresh(x, image_shape<dims>(n, channels, height, width));
    return haar_run<dims>(name, x, y, {n * channels, channels, height, width, 0, 0, 0, 0});
}

}  // namespace fusewright::metal
