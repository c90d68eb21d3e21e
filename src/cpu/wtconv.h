// Wavelet convolution, 1D and 2D. A vector holds as many channels of one pixel: every step, from
// the widest level to the one-pixel ones, then runs on full vectors, and NHWC needs no transpose.
// All levels of a group of channels stay in the cache, from the load of x to the store of y.
#pragma once

#include <cmath>
#include <memory>

#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "cpu/vec.h"

namespace fusewright::cpu::FW_ISA {

// The sizes of a call. In 1D the height is 1 and so is the filter's.
template <int dims>
struct WTConvShape {
    static constexpr int bands = 1 << dims;
    int64_t batch, channels, kernel, levels;
    std::vector<int64_t> height, width;  // of x, then of every level's bands

    int64_t kernel_height() const { return dims == 2 ? kernel : 1; }
    int64_t taps() const { return kernel_height() * kernel; }
    int64_t filters() const { return 1 + bands * levels; }  // of one channel
    // Zeros around a plane: what the filter reaches, and one more for the transform of odd sizes.
    int64_t border() const { return std::max<int64_t>(kernel / 2, 1); }
    int64_t border_rows() const { return dims == 2 ? border() : 0; }
    int64_t pitch(int64_t level) const { return width[level] + 2 * border(); }
    int64_t plane(int64_t level) const {
        return (height[level] + 2 * border_rows()) * pitch(level);
    }
    int64_t origin(int64_t level) const { return border_rows() * pitch(level) + border(); }
};

// Strides of a tensor as (batch, channel, row, column).
template <int dims>
struct Strides {
    int64_t batch, channel, row, column;
    explicit Strides(const Tensor& t)
        : batch(t.stride(0)),
          channel(t.stride(1)),
          row(dims == 2 ? t.stride(2) : 0),
          column(t.stride(dims + 1)) {}

    // The first pixel of a plane, in elements from the tensor's first.
    int64_t plane(int64_t b, int64_t c) const { return b * batch + c * channel; }
};

// The filters with their scales folded in, as (group, filter, tap, lane): filter 0 is the base's,
// then the bands of every level.
template <int dims, class A>
std::vector<A> interleave_filters(const WTConvShape<dims>& s, const std::vector<A>& base,
                                  const std::vector<A>& base_scale,
                                  const std::vector<std::vector<A>>& wavelet,
                                  const std::vector<std::vector<A>>& scale, bool flipped) {
    constexpr int lanes = Vec<A>::size;
    const int64_t groups = (s.channels + lanes - 1) / lanes, taps = s.taps();
    std::vector<A> out(groups * s.filters() * taps * lanes);
    for (int64_t channel = 0; channel < s.channels; ++channel) {
        for (int64_t f = 0; f < s.filters(); ++f) {
            const int64_t level = (f - 1) / s.bands, row = channel * s.bands + (f - 1) % s.bands;
            const A* filter = f == 0 ? &base[channel * taps] : &wavelet[level][row * taps];
            const A factor = f == 0 ? base_scale[channel] : scale[level][row];
            A* to = &out[((channel / lanes * s.filters() + f) * taps) * lanes + channel % lanes];
            for (int64_t k = 0; k < taps; ++k) {
                to[k * lanes] = factor * filter[flipped ? taps - 1 - k : k];
            }
        }
    }
    return out;
}

// ---- one plane of a group of channels: pixels are vectors ----

// At most a vector of elements that lie `step` apart.
template <class T>
Vec<acc_t<T>> load_run(const T* p, int64_t step, int n) {
    using A = acc_t<T>;
    if (step == 1) return n == Vec<A>::size ? load<A>(p) : load_partial<A>(p, n);
    A values[Vec<A>::size] = {};
    for (int i = 0; i < n; ++i) values[i] = to_acc(p[i * step]);
    return load<A>(values);
}

template <class T>
void store_run(T* p, Vec<acc_t<T>> v, int64_t step, int n) {
    if (step == 1) {
        n == v.size ? store(p, v) : store_partial(p, v, n);
        return;
    }
    for (int i = 0; i < n; ++i) p[i * step] = from_acc<T>(v[i]);
}

// The lanes of `a` and `b` that a step of the transposition exchanges.
template <int half, bool second, class V, int... lane>
V exchange(V a, V b, std::integer_sequence<int, lane...>) {
    constexpr int size = sizeof...(lane), upper = second ? size : size - half;
    constexpr int lower = second ? half : 0;
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (lane + (lane & half ? upper : lower))...);
#else
    using ints = native_t<std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t>>;
    return __builtin_shuffle(a, b, ints{(lane + (lane & half ? upper : lower))...});
#endif
}

// Transposes a square block: blocks of half the size change places, then halves of those.
template <class A, int half = Vec<A>::size / 2>
void transpose(native_t<A>* rows) {
    if constexpr (half > 0) {
        constexpr auto lanes = std::make_integer_sequence<int, Vec<A>::size>{};
        for (int i = 0; i < Vec<A>::size; ++i) {
            if (i & half) continue;
            const native_t<A> a = rows[i], b = rows[i + half];
            rows[i] = exchange<half, false>(a, b, lanes);
            rows[i + half] = exchange<half, true>(a, b, lanes);
        }
        transpose<A, half / 2>(rows);
    }
}

// Calls f(first pixel, pixels) for runs of at most a vector of pixels that are neighbours in
// memory: along the whole plane where its rows follow each other, else along each row.
template <int dims, class F>
void for_each_run(const WTConvShape<dims>& s, const Strides<dims>& stride, int lanes,
                  int64_t first_row, int64_t rows, F&& f) {
    const int64_t begin = first_row * s.width[0], end = begin + rows * s.width[0];
    const bool dense = rows == 1 || stride.row == s.width[0] * stride.column;
    const int64_t length = dense ? end - begin : s.width[0];
    for (int64_t row = begin; row < end; row += length) {
        for (int64_t i = 0; i < length; i += lanes) {
            f(row + i, static_cast<int>(std::min<int64_t>(lanes, length - i)));
        }
    }
}

// Reads a plane into its bordered buffer; the lanes past the last channel are zero.
template <int dims, class A, class T>
void load_plane(const WTConvShape<dims>& s, const T* x, const Strides<dims>& stride, int channels,
                A* buffer) {
    constexpr int lanes = Vec<A>::size;
    const int64_t width = s.width[0];
    const auto pixel = [&](int64_t i) {
        return buffer + (s.origin(0) + i / width * s.pitch(0) + i % width) * lanes;
    };
    if (stride.channel == 1 && channels > 1) {
        for (int64_t r = 0; r < s.height[0]; ++r) {
            A* to = pixel(r * width);
            for (int64_t c = 0; c < width; ++c) {
                store(to + c * lanes,
                      load_partial<A>(x + r * stride.row + c * stride.column, channels));
            }
        }
        return;
    }
    native_t<A> block[lanes] = {};
    for_each_run(s, stride, lanes, 0, s.height[0], [&](int64_t first, int n) {
        const T* from = x + first / width * stride.row + first % width * stride.column;
        for (int lane = 0; lane < channels; ++lane) {
            block[lane] = load_run(from + lane * stride.channel, stride.column, n).v;
        }
        for (int lane = channels; lane < lanes; ++lane) block[lane] = native_t<A>{};
        transpose<A>(block);
        int64_t row = first / width, column = first % width;
        for (int i = 0; i < n; ++i) {
            store(buffer + (s.origin(0) + row * s.pitch(0) + column) * lanes, Vec<A>(block[i]));
            if (++column == width) column = 0, ++row;
        }
    });
}

// Writes rows of pixels without borders; the inverse of `load_plane`.
template <int dims, class A, class T>
void store_rows(const WTConvShape<dims>& s, int64_t first_row, int64_t rows, const A* pixels,
                int channels, T* y, const Strides<dims>& stride) {
    constexpr int lanes = Vec<A>::size;
    const int64_t width = s.width[0];
    if (stride.channel == 1 && channels > 1) {
        for (int64_t i = 0; i < rows * width; ++i) {
            store_partial(y + (first_row + i / width) * stride.row + i % width * stride.column,
                          load<A>(pixels + i * lanes), channels);
        }
        return;
    }
    native_t<A> block[lanes] = {};
    const A* origin = pixels - first_row * width * lanes;
    for_each_run(s, stride, lanes, first_row, rows, [&](int64_t first, int n) {
        for (int i = 0; i < n; ++i) block[i] = load<A>(origin + (first + i) * lanes).v;
        transpose<A>(block);
        T* to = y + first / width * stride.row + first % width * stride.column;
        for (int lane = 0; lane < channels; ++lane) {
            store_run(to + lane * stride.channel, Vec<A>(block[lane]), stride.column, n);
        }
    });
}

// One level of the Haar transform. The border gives odd sizes their zeros.
template <int dims, class A>
void haar_plane(const WTConvShape<dims>& s, int64_t level, const A* from, A* to) {
    constexpr int lanes = Vec<A>::size;
    const int64_t band = s.plane(level) * lanes, pitch = s.pitch(level - 1) * lanes;
    const Vec<A> half(dims == 2 ? A(0.5) : A(0.70710678118654752440));
    for (int64_t r = 0; r < s.height[level]; ++r) {
        const A* in = from + (s.origin(level - 1) + dims * r * s.pitch(level - 1)) * lanes;
        A* out = to + (s.origin(level) + r * s.pitch(level)) * lanes;
        for (int64_t c = 0; c < s.width[level]; ++c, in += 2 * lanes, out += lanes) {
            const Vec<A> a = load<A>(in), b = load<A>(in + lanes);
            if constexpr (dims == 1) {
                store(out, (a + b) * half);
                store(out + band, (a - b) * half);
            } else {
                const Vec<A> d = load<A>(in + pitch), e = load<A>(in + pitch + lanes);
                const Vec<A> top = a + b, bottom = d + e, left = a - b, right = d - e;
                store(out, (top + bottom) * half);
                store(out + band, (top - bottom) * half);
                store(out + 2 * band, (left + right) * half);
                store(out + 3 * band, (left - right) * half);
            }
        }
    }
}

// `block` neighbouring pixels of a filtered row. `in` is the pixel under the first tap.
template <int block, int kWidth, class A>
void filter_block(const A* in, int64_t pitch, int64_t rows, int64_t columns, const A* filter,
                  A* out) {
    constexpr int lanes = Vec<A>::size;
    Vec<A> sum[block];
    const int64_t width = kWidth > 0 ? kWidth : columns;
    for (int64_t kr = 0; kr < rows; ++kr) {
        const A* line = in + kr * pitch;
        if constexpr (kWidth > 0) {
            Vec<A> x[block + kWidth - 1];
            for (int i = 0; i < block + kWidth - 1; ++i) x[i] = load<A>(line + i * lanes);
            for (int kc = 0; kc < kWidth; ++kc) {
                const Vec<A> w = load<A>(filter + (kr * kWidth + kc) * lanes);
                for (int i = 0; i < block; ++i) sum[i] = fma(w, x[i + kc], sum[i]);
            }
        } else {
            for (int64_t kc = 0; kc < width; ++kc) {
                const Vec<A> w = load<A>(filter + (kr * width + kc) * lanes);
                for (int i = 0; i < block; ++i) {
                    sum[i] = fma(w, load<A>(line + (i + kc) * lanes), sum[i]);
                }
            }
        }
    }
    for (int i = 0; i < block; ++i) store(out + i * lanes, sum[i]);
}

template <int kWidth, class A>
void filter_row(const A* in, int64_t pitch, int64_t rows, int64_t columns, const A* filter,
                int64_t width, A* out) {
    constexpr int lanes = Vec<A>::size;
    int64_t c = 0;
    const auto run = [&](auto block) {
        for (; c + block <= width; c += block) {
            filter_block<block, kWidth>(in + c * lanes, pitch, rows, columns, filter,
                                        out + c * lanes);
        }
    };
    if constexpr (kVectorBytes == 64) run(std::integral_constant<int, 8>{});
    run(std::integral_constant<int, 4>{});
    run(std::integral_constant<int, 1>{});
}

// Adds to `sums` (taps) the products of one row of gradients with the pixels under every tap.
template <int kWidth, class A>
void correlate_row(const A* in, int64_t pitch, int64_t rows, int64_t columns, const A* grad,
                   int64_t width, A* sums) {
    constexpr int lanes = Vec<A>::size;
    for (int64_t kr = 0; kr < rows; ++kr) {
        const A* line = in + kr * pitch;
        if constexpr (kWidth > 0) {
            Vec<A> sum[kWidth];
            for (int64_t c = 0; c < width; ++c) {
                const Vec<A> g = load<A>(grad + c * lanes);
                for (int kc = 0; kc < kWidth; ++kc) {
                    sum[kc] = fma(g, load<A>(line + (c + kc) * lanes), sum[kc]);
                }
            }
            for (int kc = 0; kc < kWidth; ++kc) {
                A* to = sums + (kr * kWidth + kc) * lanes;
                store(to, load<A>(to) + sum[kc]);
            }
        } else {
            for (int64_t kc = 0; kc < columns; ++kc) {
                Vec<A> sum;
                for (int64_t c = 0; c < width; ++c) {
                    sum = fma(load<A>(grad + c * lanes), load<A>(line + (c + kc) * lanes), sum);
                }
                A* to = sums + (kr * columns + kc) * lanes;
                store(to, load<A>(to) + sum);
            }
        }
    }
}

// The buffers of one thread: x or a gradient with all its bands, and the images on the way back.
template <int dims, class A>
class Pyramid {
  public:
    explicit Pyramid(const WTConvShape<dims>& s) : shape_(s) {
        int64_t size = s.plane(0);
        for (int64_t level = 1; level <= s.levels; ++level) {
            start_.push_back(size);
            size += s.bands * s.plane(level);
        }
        start_.insert(start_.begin(), 0);
        data_.resize(size * Vec<A>::size);
    }

    // Band `band` of a level; level 0 has the plane itself.
    A* band(int64_t level, int64_t band = 0) {
        return &data_[(start_[level] + band * shape_.plane(level)) * Vec<A>::size];
    }

    // The pixel under the first tap of the filter at (row, 0).
    A* under(int64_t level, int64_t band_index, int64_t row, int64_t before) {
        const int64_t up = dims == 2 ? before : 0;
        const int64_t at = shape_.origin(level) + (row - up) * shape_.pitch(level) - before;
        return band(level, band_index) + at * Vec<A>::size;
    }

    void transform() {
        for (int64_t level = 1; level <= shape_.levels; ++level) {
            haar_plane<dims>(shape_, level, band(level - 1), band(level));
        }
    }

  private:
    const WTConvShape<dims>& shape_;
    std::vector<int64_t> start_;
    std::vector<A> data_;
};

// The images on the way back from the deepest level.
template <int dims, class A>
struct Images {
    std::vector<A> deeper, image, rows;
    explicit Images(const WTConvShape<dims>& s) {
        const int64_t lanes = Vec<A>::size;
        deeper.resize(s.height[0] * s.width[0] * lanes);
        image.resize(deeper.size());
        const int64_t bands = s.levels > 0 ? s.bands * s.width[1] : 0;
        rows.resize(std::max(bands, s.width[0]) * lanes);
    }
};

// From the filtered bands of the deepest level back to the image, base + reconstruction: calls
// emit(first row, rows, pixels), few rows at a time, so that they are still in the cache when they
// are stored. `before` counts the taps left of the centre.
template <int kWidth, int dims, class A, class Emit>
void synthesize(const WTConvShape<dims>& s, Pyramid<dims, A>& p, const A* filters, int64_t before,
                const A* bias, Images<dims, A>& images, Emit&& emit) {
    constexpr int lanes = Vec<A>::size;
    std::vector<A>&deeper = images.deeper, &image = images.image, &rows = images.rows;
    const int64_t taps = s.taps() * lanes;
    const Vec<A> half(dims == 2 ? A(0.5) : A(0.70710678118654752440));
    const auto filter = [&](int64_t level, int64_t band, int64_t r, const A* weights, A* out) {
        filter_row<kWidth>(p.under(level, band, r, before), s.pitch(level) * lanes,
                           s.kernel_height(), s.kernel, weights, s.width[level], out);
    };
    for (int64_t level = s.levels; level >= 1; --level) {
        const int64_t w = s.width[level], up_w = s.width[level - 1], up_h = s.height[level - 1];
        for (int64_t r = 0; r < s.height[level]; ++r) {
            for (int64_t band = 0; band < s.bands; ++band) {
                filter(level, band, r, filters + (1 + (level - 1) * s.bands + band) * taps,
                       &rows[band * w * lanes]);
            }
            for (int64_t c = 0; c < w; ++c) {
                const auto band = [&](int64_t i) { return load<A>(&rows[(i * w + c) * lanes]); };
                Vec<A> low = band(0);
                if (level < s.levels) low += load<A>(&deeper[(r * w + c) * lanes]);
                const bool inside = 2 * c + 1 < up_w;
                const auto put = [&](int64_t row, int64_t column, Vec<A> v) {
                    store(&image[(row * up_w + column) * lanes], v);
                };
                if constexpr (dims == 1) {
                    const Vec<A> high = band(1);
                    put(0, 2 * c, (low + high) * half);
                    if (inside) put(0, 2 * c + 1, (low - high) * half);
                } else {
                    const Vec<A> lh = band(1), hl = band(2), hh = band(3);
                    const Vec<A> a = low + lh, b = low - lh, d = hl + hh, e = hl - hh;
                    put(2 * r, 2 * c, (a + d) * half);
                    if (inside) put(2 * r, 2 * c + 1, (a - d) * half);
                    if (2 * r + 1 < up_h) {
                        put(2 * r + 1, 2 * c, (b + e) * half);
                        if (inside) put(2 * r + 1, 2 * c + 1, (b - e) * half);
                    }
                }
            }
        }
        std::swap(deeper, image);
    }
    const int64_t width = s.width[0], chunk = std::max<int64_t>(1, 256 / width);
    for (int64_t first = 0; first < s.height[0]; first += chunk) {
        const int64_t count = std::min(chunk, s.height[0] - first);
        for (int64_t r = 0; r < count; ++r) {
            A* row = &image[r * width * lanes];
            filter(0, 0, first + r, filters, row);
            for (int64_t c = 0; c < width; ++c) {
                Vec<A> v = load<A>(row + c * lanes) + load<A>(bias);
                if (s.levels > 0) v += load<A>(&deeper[((first + r) * width + c) * lanes]);
                store(row + c * lanes, v);
            }
        }
        emit(first, count, image.data());
    }
}

template <class F>
void with_kernel_width(int64_t kernel, F&& f) {
    switch (kernel) {
        case 3:
            return f(std::integral_constant<int, 3>{});
        case 5:
            return f(std::integral_constant<int, 5>{});
        case 7:
            return f(std::integral_constant<int, 7>{});
        default:
            return f(std::integral_constant<int, 0>{});
    }
}

}  // namespace fusewright::cpu::FW_ISA
