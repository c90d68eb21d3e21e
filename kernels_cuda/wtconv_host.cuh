// What the forward and the gradient of a wavelet convolution share on the host.
#pragma once

#include <vector>

#include "check.h"
#include "wtconv.cuh"

namespace fusewright::cuda {

// The image of a block: its channel, its first pixel, and which groups of images it takes.
struct WtBlock {
    int64_t channel, chunk, tile, y0, x0;
    __device__ WtBlock(const WtPlan& plan, int chunks) {
        int64_t i = blockIdx.x;
        channel = i % plan.channels, i /= plan.channels;
        tile = i % plan.tiles(), chunk = i / plan.tiles();
        y0 = tile / plan.tiles_x * plan.tile_h, x0 = tile % plan.tiles_x * plan.tile_w;
    }
};

inline dim3 wt_grid(const WtPlan& plan, int64_t chunks) {
    const int64_t blocks = plan.channels * plan.tiles() * chunks;
    return dim3(static_cast<unsigned>(blocks));
}

// Blocks that the images of each of `others` regions are spread over, `groups` at once: as many as
// end soonest, where waves of `resident` blocks follow each other and what a block does first costs
// `quarters` of a group.
inline int wt_chunks(int64_t others, int64_t groups, int64_t resident, int quarters) {
    const int64_t most = std::min<int64_t>(groups, 64);
    int64_t best = 1, least = INT64_MAX;
    for (int64_t chunks = 1; chunks <= most; ++chunks) {
        const int64_t waves = ceil_div(others * chunks, resident);
        const int64_t time = waves * (4 * ceil_div(groups, chunks) + quarters);
        if (time < least) best = chunks, least = time;
    }
    return static_cast<int>(best);
}

template <class F>
void with_acc(ScalarType dtype, const char* op, F&& f) {
    with_native(dtype, op, [&](auto type) { f(Type<acc_t<typename decltype(type)::type>>{}); });
}

template <class A, int dims, class F>
void with_wt_kernel(int kernel, F&& f) {
    // doubles take the plain filter, and what does not fit tiles
    if constexpr (std::is_same_v<A, float> && dims == 1) {
        if (kernel == 3) return f(std::integral_constant<int, 3>{});
        if (kernel == 5) return f(std::integral_constant<int, 5>{});
        if (kernel == 7) return f(std::integral_constant<int, 7>{});
    }
    f(std::integral_constant<int, 0>{});
}

// A tensor (N, C, H, W) or (N, C, L) as an image.
template <int dims>
WtImage image_of(const Tensor& t) {
    WtImage image;
    image.data = Untyped(t);
    image.channel = t.stride(1);
    image.x = t.stride(dims + 1);
    (dims == 2 ? image.n : image.y) = t.stride(0);
    if (dims == 2) image.y = t.stride(2);
    const int64_t last = t.size(dims + 1);
    image.packs = image.x == 1 && last % 4 == 0 && image.n % 4 == 0 && image.channel % 4 == 0 &&
                  image.y % 4 == 0 && aligned(t.data_ptr(), 4 * t.element_size()) &&
                  t.scalar_type() != ScalarType::Double;
    return image;
}

// The checked arguments.
template <int dims>
struct WtCall {
    const char* op;
    int64_t n, channels, height, width;
    int kernel, levels;
    Tensor base_weight, base_scale;
    std::optional<Tensor> base_bias;
    std::vector<Tensor> weights, scales;

    WtCall(const char* name, const Tensor& x, const Tensor& given_weight,
           const std::optional<Tensor>& bias, const Tensor& given_scale,
           const std::vector<Tensor>& given_weights, const std::vector<Tensor>& given_scales)
        : op(name),
          base_weight(as_contiguous(given_weight)),
          base_scale(as_contiguous(given_scale)),
          base_bias(as_contiguous(bias)) {
        FW_CHECK(x.dim() == dims + 2 && base_weight.dim() == dims + 2, op, "x and base_weight must",
                 " have ", dims + 2, " dimensions");
        n = x.size(0), channels = x.size(1);
        height = dims == 2 ? x.size(2) : 1, width = x.size(dims + 1);
        kernel = static_cast<int>(base_weight.size(dims + 1));
        levels = static_cast<int>(given_weights.size());
        const int64_t taps = dims == 2 ? int64_t{kernel} * kernel : kernel;
        const int64_t bands = channels << dims;
        bool right = base_weight.numel() == channels * taps && base_scale.numel() == channels &&
                     (!present(base_bias) || base_bias->numel() == channels) &&
                     given_scales.size() == given_weights.size();
        for (int l = 0; right && l < levels; ++l) {
            right = given_weights[l].numel() == bands * taps && given_scales[l].numel() == bands;
            weights.push_back(as_contiguous(given_weights[l]));
            scales.push_back(as_contiguous(given_scales[l]));
        }
        FW_CHECK(right, op, "the parameters must have the sizes that x and base_weight ask for");
    }

    WtParameters parameters(int from, int count, bool base, bool flipped) const {
        WtParameters p;
        p.flipped = flipped;
        if (base) {
            p.base_weight = Untyped(base_weight);
            p.base_scale = Untyped(base_scale);
            if (!flipped) p.base_bias = Untyped(base_bias);
        }
        for (int l = 0; l < count; ++l) {
            p.weights[l] = Untyped(weights[from + l]);
            p.scales[l] = Untyped(scales[from + l]);
        }
        return p;
    }
};

template <class A, int dims>
__global__ void __launch_bounds__(256)
    wt_low_kernel(WtImage x, int64_t n, int64_t channels, int64_t height, int64_t width, A* low) {
    const int64_t h = dims == 2 ? (height + 1) / 2 : n, w = (width + 1) / 2;
    const int64_t total = (dims == 2 ? n : 1) * channels * h * w;
    for (int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x; i < total;
         i += int64_t{gridDim.x} * 256) {
        const int64_t j = i % w;
        int64_t row = i / w, y, image = 0, channel;
        if (dims == 2) {
            y = row % h, row /= h;
            channel = row % channels, image = row / channels;
        } else {
            channel = row % channels, y = row / channels;
        }
        const int64_t at = x(image, channel);
        const auto pair = [&](int64_t r) {
            const int64_t start = at + r * x.y + 2 * j * x.x;
            const A right = 2 * j + 1 < width ? load_one<A>(x.data, start + x.x) : A(0);
            return load_one<A>(x.data, start) + right;
        };
        if (dims == 2) {
            low[i] = A(0.5) * (pair(2 * y) + (2 * y + 1 < height ? pair(2 * y + 1) : A(0)));
        } else {
            low[i] = A(0.70710678118654752) * pair(y);
        }
    }
}

// The low band of an image, for the levels below.
template <class A, int dims>
struct WtLow {
    int64_t height, width;
    Tensor tensor;
    WtImage image;

    WtLow(const Launch& launch, const WtCall<dims>& call, const WtImage& x, int64_t above_h,
          int64_t above_w)
        : height(dims == 2 ? (above_h + 1) / 2 : 1), width((above_w + 1) / 2) {
        const ScalarType dtype = sizeof(A) == 8 ? ScalarType::Double : ScalarType::Float;
        tensor = dims == 2 ? fresh(call.base_weight, {call.n, call.channels, height, width}, dtype)
                           : fresh(call.base_weight, {call.n, call.channels, width}, dtype);
        image = image_of(tensor);
        const int64_t blocks =
            std::min<int64_t>(ceil_div<int64_t>(tensor.numel(), 256), launch.processors() * 16);
        launch(wt_low_kernel<A, dims>, dim3(static_cast<unsigned>(blocks)), dim3(256), 0, x, call.n,
               call.channels, above_h, above_w, data<A>(tensor));
    }
    static WtImage image_of(const Tensor& t) { return cuda::image_of<dims>(t); }
};

}  // namespace fusewright::cuda
