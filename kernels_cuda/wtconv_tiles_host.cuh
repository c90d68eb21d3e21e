// The calls of the kernels by tiles.
#pragma once

#include <vector>

#include "wtconv_host.cuh"
#include "wtconv_tiles_forward.cuh"

namespace fusewright::cuda {

template <class F>
void with_tile_kernel(int kernel, F&& f) {
    if (kernel == 3) return f(std::integral_constant<int, 3>{});
    if (kernel == 5) return f(std::integral_constant<int, 5>{});
    f(std::integral_constant<int, 7>{});
}

inline TileImage tile_image(const WtImage& image, int64_t width) {
    TileImage result{image.data, image.n, image.channel, image.y, image.x, 1};
    for (const int v : {4, 2}) {
        const bool even = width % v == 0 && image.n % v == 0 && image.channel % v == 0 &&
                          image.y % v == 0 && image.x == 1;
        const size_t bytes = v * (image.data.dtype == ScalarType::Float ? 4 : 2);
        if (even && aligned(image.data.data, bytes)) {
            result.vector = v;
            break;
        }
    }
    return result;
}

// Whether offsets within a tile's channels have 32 bits.
inline bool near(const TilePlan& plan, const WtImage& image) {
    const auto far = [](int64_t stride, int64_t count) { return stride > (1 << 28) / count; };
    const int around = 8 * plan.margin;
    return !far(image.channel, plan.group) && !far(image.y, plan.tile_h + around) &&
           !far(image.x, plan.tile_w + around);
}

// False where there is none.
inline bool tile_plan(TilePlan& plan, const Launch& launch, const WtCall<2>& call, const WtImage& x,
                      const WtImage& y, int64_t height, int64_t width, int levels, bool base,
                      bool grads) {
    if (call.kernel != 3 && call.kernel != 5 && call.kernel != 7) return false;
    const bool interleaved = x.channel == 1 && x.x != 1;
    return make_tile_plan(plan, call.n, call.channels, height, width, call.kernel, levels, base,
                          grads, interleaved, launch.shared_limit()) &&
           near(plan, x) && near(plan, y);
}

inline dim3 tile_grid(const TilePlan& plan, int64_t chunks) {
    return dim3(static_cast<unsigned>(int64_t{plan.groups()} * plan.tiles() * chunks));
}

// The low band `levels` below an image.
class TileLows {
  public:
    TileLows(const Launch& launch, const WtCall<2>& call, const WtImage& x, int64_t height,
             int64_t width, int levels) {
        lows_.emplace_back(launch, call, x, height, width);
        while (static_cast<int>(lows_.size()) < levels) {
            const WtLow<float, 2>& above = lows_.back();
            lows_.emplace_back(launch, call, WtImage(above.image), int64_t{above.height},
                               int64_t{above.width});
        }
    }
    const WtImage& image() const { return lows_.back().image; }
    const Tensor& tensor() const { return lows_.back().tensor; }
    int64_t height() const { return lows_.back().height; }
    int64_t width() const { return lows_.back().width; }

  private:
    std::vector<WtLow<float, 2>> lows_;
};

template <class A, int dims>
void wtconv_run(const Launch& launch, const WtCall<dims>& call, const WtImage& x, int64_t height,
                int64_t width, const WtImage& y, int from, bool base, bool flipped);

// wtconv_run by tiles; false where there are none.
inline bool tiles_run(const Launch& launch, const WtCall<2>& call, const WtImage& x, int64_t height,
                      int64_t width, const WtImage& y, int from, bool base, bool flipped) {
    TilePlan plan;
    const int levels = call.levels - from;
    if (!tile_plan(plan, launch, call, x, y, height, width, levels, base, false)) return false;
    TileForward p{tile_image(x, width),
                  tile_image(y, width),
                  nullptr,
                  0,
                  0,
                  call.parameters(from, plan.levels, base, flipped),
                  1};
    Tensor deeper;
    if (plan.levels < levels) {
        const TileLows low(launch, call, x, height, width, plan.levels);
        deeper = fresh(low.tensor(), low.tensor().sizes());
        p.deeper = data<const float>(deeper);
        p.deeper_h = static_cast<int>(low.height()), p.deeper_w = static_cast<int>(low.width());
        wtconv_run<float, 2>(launch, call, low.image(), low.height(), low.width(),
                             image_of<2>(deeper), from + plan.levels, false, flipped);
    }
    with_tile_kernel(call.kernel, [&](auto kernel) {
        const auto run = wtconv_tiles_kernel<kernel>;
        const size_t shared = plan.elements * sizeof(float);
        p.chunks = wt_chunks(int64_t{plan.groups()} * plan.tiles(), plan.n,
                             launch.resident(run, plan.threads, shared), 2);
        launch(run, tile_grid(plan, p.chunks), dim3(plan.threads), shared, plan, p);
    });
    return true;
}

}  // namespace fusewright::cuda
