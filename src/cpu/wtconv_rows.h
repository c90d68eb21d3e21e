// Wavelet convolution of wide planes in NCHW: a vector holds neighbours of one row, so nothing is
// transposed, and one channel's plane with all its bands stays in the caches nearest to the core.
//
// Rows start at whole vectors. The zeros between two of them, at least `border`, serve the right
// edge of the one and the left edge of the other.
#pragma once

#include "cpu/row.h"
#include "cpu/wtconv.h"

namespace fusewright::cpu::FW_ISA {

// A tile of a filtered plane: what one pass over the taps keeps in registers. A row of x that has
// been loaded serves all of the tile's rows.
template <class A>
constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4;

// Filters a tile of rows x vectors, with the start's rows, if any, and `offset` added. `in` is the
// pixel under the first tap, `filter` scalars. Of the last vectors' elements `last` are kept.
template <int rows, int vectors, int kWidth, class A>
FW_INLINE void filter_tile(const A* in, int64_t pitch, int64_t width, const A* filter,
                           const Rows<const A>& start, Vec<A> offset, const Rows<A>& out,
                           int64_t last) {
    constexpr int lanes = Vec<A>::size;
    Vec<A> sum[rows][vectors];
    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
        repeat<vectors>([&](auto v) FW_INLINE_LAMBDA { sum[r][v] = offset; });
    });
    if (start.first != nullptr) {
        const A* from = start.first;
        repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
            repeat<vectors>([&](auto v)
                                FW_INLINE_LAMBDA { sum[r][v] += load<A>(from + v * lanes); });
            from += start.pitch;
        });
    }
    if constexpr (kWidth > 0) {
        for (int kc = 0; kc < kWidth; ++kc) {
            Vec<A> w[kWidth];
            repeat<kWidth>([&](auto kr)
                               FW_INLINE_LAMBDA { w[kr] = Vec<A>(filter[kr * kWidth + kc]); });
            const A* line = in + kc;
            repeat<rows + kWidth - 1>([&](auto l) FW_INLINE_LAMBDA {
                repeat<vectors>([&](auto v) FW_INLINE_LAMBDA {
                    Vec<A> x = load<A>(line + v * lanes);
                    in_register(x);
                    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
                        if constexpr (l >= r && l - r < kWidth) {
                            sum[r][v] = fma(w[l - r], x, sum[r][v]);
                        }
                    });
                });
                line += pitch;
            });
        }
    } else {
        for (int64_t kr = 0; kr < width; ++kr) {
            for (int64_t kc = 0; kc < width; ++kc) {
                const Vec<A> w(filter[kr * width + kc]);
                repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
                    repeat<vectors>([&](auto v) FW_INLINE_LAMBDA {
                        const A* x = in + (r + kr) * pitch + kc + v * lanes;
                        sum[r][v] = fma(w, load<A>(x), sum[r][v]);
                    });
                });
            }
        }
    }
    A* to = out.first;
    if (last == lanes) {
        repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
            repeat<vectors>([&](auto v) FW_INLINE_LAMBDA { store(to + v * lanes, sum[r][v]); });
            to += out.pitch;
        });
        return;
    }
    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
        repeat<vectors - 1>([&](auto v) FW_INLINE_LAMBDA { store(to + v * lanes, sum[r][v]); });
        store_partial(to + (vectors - 1) * lanes, sum[r][vectors - 1], static_cast<int>(last));
        to += out.pitch;
    });
}

// The same for a strip of that many rows, `width` columns wide.
template <int rows, int kWidth, class A>
FW_INLINE void filter_strip(const A* in, int64_t pitch, int64_t kernel, const A* filter,
                            int64_t width, Ahead& ahead, Rows<const A> start, Vec<A> offset,
                            Rows<A> out) {
    constexpr int lanes = Vec<A>::size;
    const auto run = [&](auto vectors) FW_INLINE_LAMBDA {
        const int64_t last = std::min<int64_t>(lanes, width - (vectors - 1) * lanes);
        filter_tile<rows, vectors, kWidth>(in, pitch, kernel, filter, start, offset, out, last);
        in += vectors * lanes;
        out.first += vectors * lanes;
        if (start.first != nullptr) start.first += vectors * lanes;
        width -= vectors * lanes;
        ahead.ask(rows * vectors / 2);  // the tiles of all levels are twice the plane, and more
    };
    while (width > lanes) run(std::integral_constant<int, 2>{});
    if (width > 0) run(std::integral_constant<int, 1>{});
}

// x with all its bands, and the images on the way back, of one plane.
template <class A>
class RowPyramid {
  public:
    explicit RowPyramid(const WTConvShape<2>& s) : s_(s) {
        int64_t size = whole(s.border());
        for (int64_t level = 0; level <= s.levels; ++level) {
            start_.push_back(size);
            size += (level == 0 ? 1 : s.bands) * plane(level);
        }
        // Tiles reach past the last plane.
        data_ = zeros<A>(size + (kTileRows<A> + s.kernel) * pitch(0) + 4 * lanes);
        staged_ = zeros<A>(kTileRows<A> * s.width[0] + lanes);
        if (s.levels == 0) return;
        inside_ = zeros<A>((s.levels + 1) * lanes);
        for (int64_t level = 1; level <= s.levels; ++level) {
            const int64_t rest = (s.width[level] - 1) % lanes + 1;
            for (int64_t i = 0; i < rest; ++i) inside_[level * lanes + i] = 1;
        }
        rows_ = zeros<A>(s.bands * kTileRows<A> * whole(s.width[1]));
        // of the even levels, and of the odd ones, of which level 1 needs no more than a tile
        const auto image = [&](int64_t level, int64_t rows) {
            if (level > s.levels) return Buffer<A>();
            return zeros<A>((2 * rows + 2 * kTileRows<A>)*image_pitch(level));
        };
        images_[0] = image(2, s.levels < 2 ? 0 : s.height[2]);
        images_[1] = image(1, s.levels < 3 ? 0 : s.height[3]);
    }

    RowPyramid(RowPyramid&&) = default;
    ~RowPyramid() { stream_fence(); }

    // Reads a plane and transforms it.
    template <class T>
    void read(const T* x, int64_t row_stride, int64_t step) {
        for (int64_t r = 0; r < s_.height[0]; ++r) {
            load_row(x + r * row_stride, step, s_.width[0], pixel(0, 0, r));
            if (s_.levels > 0 && (r % 2 == 1 || r + 1 == s_.height[0])) haar(1, r / 2, r / 2 + 1);
        }
        for (int64_t level = 2; level <= s_.levels; ++level) haar(level, 0, s_.height[level]);
    }

    // Filters all bands and adds them up, the deepest first, then the plane itself, and writes y.
    // `filters` are those of one channel, the bands' of level i times 4^-i. In the meantime the
    // plane that is read next comes nearer.
    template <int kWidth, class T>
    void filter(const A* filters, int64_t before, A bias, T* y, int64_t row_stride, bool stream,
                Ahead next) {
        for (int64_t level = s_.levels; level >= 2; --level) {
            tiles(0, s_.height[level], [&](auto rows, int64_t first) {
                A* image = &images_[level % 2][2 * first * image_pitch(level)];
                filter_bands<kWidth>(rows, level, first, filters, before, image, next);
            });
        }
        const auto base = [&](int64_t begin, int64_t end, Rows<const A> image) {
            tiles(begin, end, [&](auto rows, int64_t first) {
                Rows<const A> deeper = image;
                if (image.first != nullptr) deeper.first += (first - begin) * image.pitch;
                filter_base<kWidth>(rows, first, std::min(first + rows, end), filters, before, bias,
                                    deeper, y, row_stride, stream, next);
            });
        };
        if (s_.levels == 0) return base(0, s_.height[0], {nullptr, 0});
        // The image of level 1 is used where it is made.
        tiles(0, s_.height[1], [&](auto rows, int64_t first) {
            A* image = images_[1].get();
            filter_bands<kWidth>(rows, 1, first, filters, before, image, next);
            base(2 * first, std::min(2 * (first + rows), s_.height[0]), {image, image_pitch(1)});
        });
    }

  private:
    static constexpr int lanes = Vec<A>::size;
    template <class T>
    static void emit(const A* from, int64_t n, T* to, bool stream) {
        int64_t i = 0;
        if (stream) {
            for (; i + lanes <= n; i += lanes) store_stream(to + i, load<A>(from + i));
        }
        store_row(from + i, 1, n - i, to + i);
    }
    static int64_t whole(int64_t n) { return (n + lanes - 1) / lanes * lanes; }

    int64_t pitch(int64_t level) const { return whole(s_.width[level] + s_.border()); }
    // A line more than needed, so that the bands of a power of two do not share cache sets.
    int64_t plane(int64_t level) const {
        return (s_.height[level] + 2 * s_.border()) * pitch(level) + lanes;
    }
    int64_t image_pitch(int64_t level) const {
        return level > s_.levels ? 0 : 2 * whole(s_.width[level]);
    }

    A* pixel(int64_t level, int64_t band, int64_t row) {
        const int64_t at = whole(s_.border()) + (s_.border() + row) * pitch(level);
        return &data_[start_[level] + band * plane(level) + at];
    }
    const A* under(int64_t level, int64_t band, int64_t row, int64_t before) {
        return pixel(level, band, row - before) - before;
    }

    // Calls f(rows of the tile, first row). The last tile may be higher than what is left.
    template <class F>
    static void tiles(int64_t begin, int64_t end, F&& f) {
        constexpr int most = kTileRows<A>;
        for (int64_t r = begin; r < end;) {
            if (most > 4 && end - r > 4) {
                f(std::integral_constant<int, most>{}, r);
                r += most;
            } else {
                f(std::integral_constant<int, 4>{}, r);
                r += 4;
            }
        }
    }

    // A tile of rows of a level's bands: filters them, and adds them up with what is deeper.
    template <int kWidth, int rows>
    void filter_bands(std::integral_constant<int, rows>, int64_t level, int64_t first,
                      const A* filters, int64_t before, A* image, Ahead& next) {
        const int64_t padded = whole(s_.width[level]);
        for (int64_t band = 0; band < s_.bands; ++band) {
            Rows<const A> start{nullptr, 0};
            if (band == 0 && level < s_.levels) {
                const int64_t deeper = image_pitch(level + 1);
                start = {&images_[(level + 1) % 2][first * deeper], deeper};
            }
            filter_strip<rows, kWidth>(under(level, band, first, before), pitch(level), s_.kernel,
                                       filters + (1 + (level - 1) * s_.bands + band) * s_.taps(),
                                       padded, next, start, Vec<A>(),
                                       Rows<A>{&rows_[band * rows * padded], padded});
        }
        inverse(level, std::min<int64_t>(rows, s_.height[level] - first), rows * padded, padded,
                image);
    }

    // A tile of the plane itself: filters it, adds the image of the bands and the bias, and writes
    // y. Rows that follow each other are staged, so that whole cache lines leave in order.
    template <int kWidth, int rows, class T>
    void filter_base(std::integral_constant<int, rows>, int64_t first, int64_t end, const A* filter,
                     int64_t before, A bias, Rows<const A> deeper, T* y, int64_t row_stride,
                     bool stream, Ahead& next) {
        const int64_t width = s_.width[0];
        A* out = staged_.get();
        filter_strip<rows, kWidth>(under(0, 0, first, before), pitch(0), s_.kernel, filter, width,
                                   next, deeper, Vec<A>(bias), Rows<A>{out, width});
        if (row_stride == width) {
            emit(out, (end - first) * width, y + first * row_stride, stream);
        } else {
            for (int64_t r = 0; r < end - first; ++r) {
                emit(out + r * width, width, y + (first + r) * row_stride, stream);
            }
        }
    }

    void haar(int64_t level, int64_t first, int64_t last) {
        const auto inside = load<A>(&inside_[level * lanes]) != Vec<A>();
        for (int64_t r = first; r < last; ++r) {
            const A *top = pixel(level - 1, 0, 2 * r), *bottom = pixel(level - 1, 0, 2 * r + 1);
            A* out = pixel(level, 0, r);
            const int64_t band = plane(level), width = s_.width[level];
            for (int64_t c = 0; c < width; c += lanes) {
                const Vec<A> a = load<A>(top + 2 * c), b = load<A>(top + 2 * c + lanes);
                const Vec<A> d = load<A>(bottom + 2 * c), e = load<A>(bottom + 2 * c + lanes);
                const auto low = even_odd(a + d, b + e), high = even_odd(a - d, b - e);
                const auto put = [&](int64_t i, Vec<A> v) {
                    store(out + i * band + c, c + lanes < width ? v : select(inside, v, Vec<A>()));
                };
                put(0, low.first + low.second);
                put(1, high.first + high.second);
                put(2, low.first - low.second);
                put(3, high.first - high.second);
            }
        }
    }

    // The image of `count` rows of filtered bands.
    void inverse(int64_t level, int64_t count, int64_t band, int64_t padded, A* image) {
        const int64_t step = image_pitch(level);
        for (int64_t r = 0; r < count; ++r) {
            const A* in = &rows_[r * padded];
            A* out = image + 2 * r * step;
            for (int64_t c = 0; c < s_.width[level]; c += lanes) {
                const auto of = [&](int64_t b) { return load<A>(in + b * band + c); };
                const Vec<A> ll = of(0), lh = of(1), hl = of(2), hh = of(3);
                const Vec<A> a = ll + lh, b = ll - lh, d = hl + hh, e = hl - hh;
                const auto top = interleave(a + d, a - d), bottom = interleave(b + e, b - e);
                store(out + 2 * c, top.first);
                store(out + 2 * c + lanes, top.second);
                store(out + step + 2 * c, bottom.first);
                store(out + step + 2 * c + lanes, bottom.second);
            }
        }
    }

    const WTConvShape<2>& s_;
    std::vector<int64_t> start_;
    Buffer<A> data_, rows_, staged_, images_[2];
    Buffer<A> inside_;  // of every level, the lanes of a row's last vector that are pixels
};

}  // namespace fusewright::cpu::FW_ISA
