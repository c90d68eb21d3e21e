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

// The pixels under a tile's taps, all of which may be read: column by column of taps, or each.
template <class A>
struct Pixels {
    const A* in;  // under the first tap
    int64_t pitch;

    struct Column {
        const A* line;
        int64_t pitch;
        FW_INLINE Vec<A> pixels(int v) const { return load<A>(line + v * Vec<A>::size); }
        FW_INLINE Vec<A> add(Vec<A> w, Vec<A> x, Vec<A> sum, int) const { return fma(w, x, sum); }
        FW_INLINE void down() { line += pitch; }
    };
    FW_INLINE Column column(int tap) const { return {in + tap, pitch}; }
    FW_INLINE Vec<A> pixels(int64_t line, int64_t tap, int v) const {
        return load<A>(in + line * pitch + tap + v * Vec<A>::size);
    }
};

// The same at the ends of a row, where what is beside it does not count: for every tap and vector
// the lanes that do.
template <class A>
struct PixelsAtEnd {
    Pixels<A> all;
    const uint16_t* inside;

    struct Column : Pixels<A>::Column {
        unsigned inside[2];
        FW_INLINE Vec<A> add(Vec<A> w, Vec<A> x, Vec<A> sum, int v) const {
            return fma_lanes(w, x, sum, inside[v]);
        }
    };
    FW_INLINE Column column(int tap) const {
        return {all.column(tap), {inside[2 * tap], inside[2 * tap + 1]}};
    }
};

// The tiles of a row whose taps reach past its ends: the first, and the last one or two.
template <class A>
struct Ends {
    int64_t width = 0, before = 0, last = 0;  // columns `before` to `last` see the row alone
    int64_t taps = 0, late = 0;               // the first column of the late tiles
    std::vector<uint16_t> lanes_inside;       // (tile, tap, vector)

    Ends() = default;
    Ends(int64_t kernel, int64_t width)
        : width(width), before((kernel - 1) / 2), last(width - kernel / 2), taps(kernel) {
        constexpr int64_t lanes = Vec<A>::size;
        late = (last - 1) / (2 * lanes) * (2 * lanes);
        for (const int64_t tile : {int64_t{0}, late, late + 2 * lanes}) {
            for (int64_t first = tile - before; first < tile - before + taps; ++first) {
                for (const int64_t column : {first, first + lanes}) {
                    unsigned set = 0;
                    for (int64_t l = 0; l < lanes; ++l) {
                        if (0 <= column + l && column + l < width) set |= 1u << l;
                    }
                    lanes_inside.push_back(static_cast<uint16_t>(set));
                }
            }
        }
    }

    FW_INLINE bool reached(int64_t c, int64_t n) const { return c < before || c + n > last; }
    FW_INLINE const uint16_t* inside(int64_t c) const {
        return lanes_inside.data() + 2 * taps * (c < before ? 0 : 1 + (c > late));
    }
};
struct NoEnds {};

// Filters a tile of rows x vectors, with the start's rows, if any, and `offset` added; `filter` are
// scalars. Of the last vectors' elements `last` are kept.
template <int rows, int vectors, int kWidth, class In, class A>
FW_INLINE void filter_tile(const In& in, int64_t width, const A* filter, const Rows<const A>& start,
                           Vec<A> offset, const Rows<A>& out, int64_t last) {
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
            auto column = in.column(kc);
            repeat<rows + kWidth - 1>([&](auto l) FW_INLINE_LAMBDA {
                repeat<vectors>([&](auto v) FW_INLINE_LAMBDA {
                    Vec<A> x = column.pixels(v);
                    in_register(x);
                    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
                        if constexpr (l >= r && l - r < kWidth) {
                            sum[r][v] = column.add(w[l - r], x, sum[r][v], v);
                        }
                    });
                });
                column.down();
            });
        }
    } else {
        for (int64_t kr = 0; kr < width; ++kr) {
            for (int64_t kc = 0; kc < width; ++kc) {
                const Vec<A> w(filter[kr * width + kc]);
                repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
                    repeat<vectors>([&](auto v) FW_INLINE_LAMBDA {
                        sum[r][v] = fma(w, in.pixels(r + kr, kc, v), sum[r][v]);
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

// The same for a strip of that many rows, `width` columns wide. Beside its `ends` lie other pixels,
// or zeros where there are none.
template <int rows, int kWidth, class E, class A>
FW_INLINE void filter_strip(const A* in, int64_t pitch, const E& ends, int64_t kernel,
                            const A* filter, int64_t width, Ahead& ahead, Rows<const A> start,
                            Vec<A> offset, Rows<A> out) {
    constexpr int lanes = Vec<A>::size;
    int64_t c = 0;
    const auto run = [&](auto vectors) FW_INLINE_LAMBDA {
        const int64_t last = std::min<int64_t>(lanes, width - (vectors - 1) * lanes);
        const auto tile = [&](const auto& pixels) FW_INLINE_LAMBDA {
            filter_tile<rows, vectors, kWidth>(pixels, kernel, filter, start, offset, out, last);
        };
        if constexpr (std::is_same_v<E, NoEnds>) {
            tile(Pixels<A>{in, pitch});
        } else if (ends.reached(c, vectors * lanes)) {
            tile(PixelsAtEnd<A>{{in, pitch}, ends.inside(c)});
        } else {
            tile(Pixels<A>{in, pitch});
        }
        in += vectors * lanes;
        c += vectors * lanes;
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

    // Whether rows of T are filtered where they lie, and not copied to where zeros are beside them:
    // to write a plane into the second cache costs 5 to 7 % of a call. For the common kernel alone,
    // as it doubles the code, and where an FMA of some lanes takes no longer than of all.
    template <int kWidth, class T>
    static constexpr bool kInPlace = kWidth == 5 && std::is_same_v<T, float> && kVectorBytes == 64;

    // Reads a plane and transforms it.
    template <int kWidth, class T>
    void read(const T* x, int64_t row_stride) {
        const int64_t height = s_.height[0], width = s_.width[0];
        int64_t top = height, bottom = height;  // the rows between them are not copied
        if constexpr (kInPlace<kWidth, T>) {
            // what is beside a row must be x's own, if not the plane's
            in_place_ = width >= 4 * lanes && row_stride >= width;
            if (in_place_) {
                x_ = {x, row_stride};
                if (ends_.width != width) ends_ = Ends<A>(kWidth, width);
                top = kTileRows<A> + kWidth;
                bottom = height - top;
            }
        }
        for (int64_t r = 0; r < height; ++r) {
            if (r < top || r >= bottom) load_row(x + r * row_stride, 1, width, pixel(0, 0, r));
            if (s_.levels > 0 && (r % 2 == 1 || r + 1 == height)) {
                in_place_ ? haar_of_x(r / 2) : haar(1, r / 2, r / 2 + 1);
            }
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
            filter_strip<rows, kWidth>(
                under(level, band, first, before), pitch(level), NoEnds{}, s_.kernel,
                filters + (1 + (level - 1) * s_.bands + band) * s_.taps(), padded, next, start,
                Vec<A>(), Rows<A>{&rows_[band * rows * padded], padded});
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
        const int64_t top = first - before, bottom = top + rows + s_.kernel - 1;
        const auto strip = [&](const A* in, int64_t pitch, const auto& ends) FW_INLINE_LAMBDA {
            filter_strip<rows, kWidth>(in, pitch, ends, s_.kernel, filter, width, next, deeper,
                                       Vec<A>(bias), Rows<A>{out, width});
        };
        bool done = false;
        if constexpr (kInPlace<kWidth, T> && rows == kTileRows<A>) {
            done = in_place_ && top > 0 && bottom < s_.height[0];
            if (done) strip(x_.first + top * x_.pitch - before, x_.pitch, ends_);
        }
        if (!done) strip(under(0, 0, first, before), pitch(0), NoEnds{});
        if (row_stride == width) {
            emit(out, (end - first) * width, y + first * row_stride, stream);
        } else {
            for (int64_t r = 0; r < end - first; ++r) {
                emit(out + r * width, width, y + (first + r) * row_stride, stream);
            }
        }
    }

    // Columns from `begin` to `end` of row r of a level's bands, from two rows of what they halve.
    void haar_row(const A* top, const A* bottom, int64_t level, int64_t r, int64_t begin,
                  int64_t end) {
        const auto inside = load<A>(&inside_[level * lanes]) != Vec<A>();
        A* out = pixel(level, 0, r);
        const int64_t band = plane(level), width = s_.width[level];
        for (int64_t c = begin; c < end; c += lanes) {
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
    void haar(int64_t level, int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) {
            haar_row(pixel(level - 1, 0, 2 * r), pixel(level - 1, 0, 2 * r + 1), level, r, 0,
                     s_.width[level]);
        }
    }
    // A row of level 1 from x itself; what is left behind whole vectors is copied beside zeros.
    void haar_of_x(int64_t r) {
        const int64_t columns = s_.width[0] / (2 * lanes) * lanes, rest = s_.width[0] - 2 * columns;
        const A *top = x_.first + 2 * r * x_.pitch, *bottom = top + x_.pitch;
        if (2 * r + 1 == s_.height[0]) bottom = pixel(0, 0, s_.height[0]);
        haar_row(top, bottom, 1, r, 0, columns);
        if (rest == 0) return;
        A ends[4 * lanes] = {};
        load_row(top + 2 * columns, 1, rest, ends);
        load_row(bottom + 2 * columns, 1, rest, ends + 2 * lanes);
        haar_row(ends - 2 * columns, ends + 2 * lanes - 2 * columns, 1, r, columns, s_.width[1]);
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
    bool in_place_ = false;  // then x lies there:
    Rows<const A> x_{nullptr, 0};
    Ends<A> ends_;
    std::vector<int64_t> start_;
    Buffer<A> data_, rows_, staged_, images_[2];
    Buffer<A> inside_;  // of every level, the lanes of a row's last vector that are pixels
};

}  // namespace fusewright::cpu::FW_ISA
