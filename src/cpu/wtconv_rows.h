// Wavelet convolution of wide planes in NCHW: a vector holds neighbours of one row, so nothing is
// transposed, and one channel's plane with all its bands stays in the caches nearest to the core.
//
// Both transforms go without their factors of 1/2, which the filters hold: powers of two are exact.
//
// Rows start at whole vectors. The zeros between two of them, at least `border`, serve the right
// edge of the one and the left edge of the other.
#pragma once

#include <cstdlib>
#include <new>

#include "cpu/row.h"
#include "cpu/wtconv.h"

namespace fusewright::cpu::FW_ISA {

// A tile of a filtered plane: what one pass over the taps keeps in registers. A row of x that has
// been loaded serves all of the tile's rows.
template <class A>
constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4;

// Keeps the compiler from loading x again at every use: most of these loads cross a cache line.
template <class A>
FW_INLINE void in_register(Vec<A>& x) {
#if defined(__AVX512F__)
    asm("" : "+v"(x.v));
#elif defined(FW_X86)
    asm("" : "+x"(x.v));
#else
    (void)x;
#endif
}

// Calls emit(r, v, sum) with vector v of row r of the filtered tile, the sum that began with
// init(r, v). `in` is the pixel under the first tap, `filter` scalars.
template <int rows, int vectors, int kWidth, class A, class Init, class Emit>
FW_INLINE void filter_tile(const A* in, int64_t pitch, int64_t width, const A* filter, Init&& init,
                           Emit&& emit) {
    constexpr int lanes = Vec<A>::size;
    Vec<A> sum[rows][vectors];
    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
        repeat<vectors>([&](auto v) FW_INLINE_LAMBDA { sum[r][v] = init(r, v); });
    });
    if constexpr (kWidth > 0) {
        for (int kc = 0; kc < kWidth; ++kc) {
            Vec<A> w[kWidth];
            repeat<kWidth>([&](auto kr)
                               FW_INLINE_LAMBDA { w[kr] = Vec<A>(filter[kr * kWidth + kc]); });
            repeat<rows + kWidth - 1>([&](auto line) FW_INLINE_LAMBDA {
                repeat<vectors>([&](auto v) FW_INLINE_LAMBDA {
                    Vec<A> x = load<A>(in + line * pitch + kc + v * lanes);
                    in_register(x);
                    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
                        if constexpr (line >= r && line - r < kWidth) {
                            sum[r][v] = fma(w[line - r], x, sum[r][v]);
                        }
                    });
                });
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
    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
        repeat<vectors>([&](auto v) FW_INLINE_LAMBDA { emit(r, v, sum[r][v]); });
    });
}

// The same for a strip of that many rows: init and emit get (row, column).
template <int rows, int kWidth, class A, class Init, class Emit>
FW_INLINE void filter_strip(const A* in, int64_t pitch, int64_t kernel, const A* filter,
                            int64_t width, Init init, Emit emit) {
    constexpr int lanes = Vec<A>::size;
    int64_t c = 0;
    const auto run = [&](auto vectors) FW_INLINE_LAMBDA {
        filter_tile<rows, vectors, kWidth>(
            in + c, pitch, kernel, filter,
            [=](int r, int v) FW_INLINE_LAMBDA { return init(r, c + v * lanes); },
            [=](int r, int v, Vec<A> sum) FW_INLINE_LAMBDA { emit(r, c + v * lanes, sum); });
        c += vectors * lanes;
    };
    while (width - c > lanes) run(std::integral_constant<int, 2>{});
    if (c < width) run(std::integral_constant<int, 1>{});
}

// The rows of a plane, wanted in the cache soon.
struct Ahead {
    const char* plane;
    int64_t row_bytes, stride_bytes;

    void prefetch(int64_t first, int64_t last) const {
        for (const char* row = plane + first * stride_bytes; first < last; ++first) {
            for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(row + i);
            row += stride_bytes;
        }
    }
};

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
        data_ = zeros(size + (kTileRows<A> + s.kernel) * pitch(0) + 4 * lanes);
        staged_ = zeros(kTileRows<A> * s.width[0] + lanes);
        if (s.levels == 0) return;
        rows_ = zeros(s.bands * kTileRows<A> * whole(s.width[1]));
        for (auto& image : images_) {
            image = zeros((2 * s.height[1] + kTileRows<A>)*image_pitch(1));
        }
    }

    RowPyramid(RowPyramid&&) = default;
    ~RowPyramid() { stream_fence(); }

    template <class T>
    void read(const T* x, int64_t row_stride, int64_t step) {
        for (int64_t r = 0; r < s_.height[0]; ++r) {
            load_row(x + r * row_stride, step, s_.width[0], pixel(0, 0, r));
        }
    }

    void transform() {
        for (int64_t level = 1; level <= s_.levels; ++level) haar(level);
    }

    // Filters all bands and adds them up, the deepest first. `filters` are those of one channel,
    // the bands' of level i times 4^-i.
    // In the meantime the plane that is read next comes nearer.
    template <int kWidth>
    void filter_bands(const A* filters, int64_t before, const Ahead& next) {
        const int64_t taps = s_.taps();
        for (int64_t level = s_.levels; level >= 1; --level) {
            const A* of_level = filters + (1 + (level - 1) * s_.bands) * taps;
            tiles(level, [&](auto rows, int64_t first) {
                if (level == 1) next.prefetch(2 * first, 2 * (first + rows));
                const Deeper deeper = deeper_than(level, first);
                const int64_t padded = whole(s_.width[level]);
                for (int64_t band = 0; band < s_.bands; ++band) {
                    A* out = &rows_[band * rows * padded];
                    const bool low = band == 0;
                    filter_strip<rows, kWidth>(
                        under(level, band, first, before), pitch(level), s_.kernel,
                        of_level + band * taps, s_.width[level],
                        [=](int r, int64_t c)
                            FW_INLINE_LAMBDA { return low ? deeper(r, c) : Vec<A>(); },
                        [=](int r, int64_t c, Vec<A> v)
                            FW_INLINE_LAMBDA { store(out + r * padded + c, v); });
                }
                inverse(level, first, std::min<int64_t>(rows, s_.height[level] - first),
                        rows * padded, padded);
            });
        }
    }

    // Filters the plane itself, adds the image of the bands and the bias, and writes y. Rows that
    // follow each other are staged, so that whole cache lines leave in order.
    template <int kWidth, class T>
    void filter_base(const A* filter, int64_t before, A bias, T* y, int64_t row_stride,
                     bool stream) {
        tiles(0, [&](auto rows, int64_t first) {
            const Deeper deeper = deeper_than(0, first);
            const Vec<A> offset(bias);
            const int64_t width = s_.width[0];
            const int64_t count = std::min<int64_t>(rows, s_.height[0] - first);
            A* out = staged_.get();
            filter_strip<rows, kWidth>(
                under(0, 0, first, before), pitch(0), s_.kernel, filter, width,
                [=](int r, int64_t c) FW_INLINE_LAMBDA { return deeper(r, c) + offset; },
                [=](int r, int64_t c, Vec<A> v) FW_INLINE_LAMBDA {
                    if (width - c >= lanes) {
                        store(out + r * width + c, v);
                    } else {
                        store_partial(out + r * width + c, v, static_cast<int>(width - c));
                    }
                });
            T* to = y + first * row_stride;
            if (row_stride == width) {
                emit(out, count * width, to, stream);
            } else {
                for (int64_t r = 0; r < count; ++r) {
                    emit(out + r * width, width, to + r * row_stride, stream);
                }
            }
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
    int64_t image_pitch(int64_t level) const { return 2 * whole(s_.width[level]); }

    A* pixel(int64_t level, int64_t band, int64_t row) {
        const int64_t at = whole(s_.border()) + (s_.border() + row) * pitch(level);
        return &data_[start_[level] + band * plane(level) + at];
    }
    const A* under(int64_t level, int64_t band, int64_t row, int64_t before) {
        return pixel(level, band, row - before) - before;
    }

    // Calls f(rows of the tile, first row). The last tile may be higher than what is left.
    template <class F>
    void tiles(int64_t level, F&& f) {
        constexpr int most = kTileRows<A>;
        const int64_t height = s_.height[level];
        for (int64_t r = 0; r < height;) {
            if (most > 4 && height - r > 4) {
                f(std::integral_constant<int, most>{}, r);
                r += most;
            } else {
                f(std::integral_constant<int, 4>{}, r);
                r += 4;
            }
        }
    }

    void haar(int64_t level) {
        const int64_t rest = s_.width[level] % lanes;
        A kept[lanes];
        for (int i = 0; i < lanes; ++i) kept[i] = rest == 0 || i < rest;
        const auto inside = load<A>(kept) != Vec<A>();
        for (int64_t r = 0; r < s_.height[level]; ++r) {
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

    // The image that the next deeper level has left; zeros below the deepest.
    struct Deeper {
        const A* image;
        int64_t pitch;
        FW_INLINE Vec<A> operator()(int64_t row, int64_t column) const {
            return image == nullptr ? Vec<A>() : load<A>(image + row * pitch + column);
        }
    };
    Deeper deeper_than(int64_t level, int64_t row) const {
        if (level == s_.levels) return {nullptr, 0};
        const int64_t step = image_pitch(level + 1);
        return {images_[level % 2].get() + row * step, step};
    }

    // The image of `count` rows of filtered bands.
    void inverse(int64_t level, int64_t row, int64_t count, int64_t band, int64_t padded) {
        const int64_t step = image_pitch(level);
        for (int64_t r = 0; r < count; ++r) {
            const A* in = &rows_[r * padded];
            A* out = &images_[(level - 1) % 2][2 * (row + r) * step];
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

    struct Free {
        void operator()(A* p) const { std::free(p); }
    };
    using Buffer = std::unique_ptr<A[], Free>;

    // Whole vectors on their boundaries never cross a cache line.
    static Buffer zeros(int64_t n) {
        const size_t bytes = whole(n) * sizeof(A);
        void* p = std::aligned_alloc(kVectorBytes, bytes);
        if (p == nullptr) throw std::bad_alloc();
        std::memset(p, 0, bytes);
        return Buffer(static_cast<A*>(p));
    }

    const WTConvShape<2>& s_;
    std::vector<int64_t> start_;
    Buffer data_, rows_, staged_, images_[2];
};

}  // namespace fusewright::cpu::FW_ISA
