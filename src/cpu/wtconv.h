// Wavelet convolution, 1D and 2D. A vector holds as many channels of one pixel: every step, from
// the widest level to the one-pixel ones, then runs on full vectors, and NHWC needs no transpose.
// All levels of a group of channels stay in the cache, from the load of x to the store of y.
//
// The transforms go without their factors, which the filters hold: powers of two are exact.
#pragma once

#include "cpu/wtconv_planes.h"

namespace fusewright::cpu::FW_ISA {

// Neighbours whose sums a tile keeps in registers, with two taps and a pixel: of 32, or of 16. Two
// rows of four are what the latency of two units takes.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileColumns = 7;
#else
constexpr int kTileColumns = 4;
#endif

// Which tiles have code of their own that leaves out the zeros beside the plane: those as wide as
// it, and those at one of its edges. Code for more would make the library larger than it gains.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kWholeTiles = true, kSideTiles = true;
#elif defined(__AVX2__)
constexpr bool kWholeTiles = true, kSideTiles = false;
#else
constexpr bool kWholeTiles = false, kSideTiles = false;
#endif
constexpr int kWidestAtEdges = 5;  // columns of such a filter

// Rows of one level of the Haar transform, without its factor; the border gives odd sizes their
// zeros.
template <int dims, class A>
void haar_rows(const WTConvShape<dims>& s, int64_t level, int64_t first, int64_t last,
               const A* from, A* to) {
    constexpr int lanes = Vec<A>::size;
    const int64_t band = s.plane(level) * lanes, pitch = s.pitch(level - 1) * lanes;
    for (int64_t r = first; r < last; ++r) {
        const A* in = from + (s.origin(level - 1) + dims * r * s.pitch(level - 1)) * lanes;
        A* out = to + (s.origin(level) + r * s.pitch(level)) * lanes;
        for (int64_t c = 0; c < s.width[level]; ++c, in += 2 * lanes, out += lanes) {
            const Vec<A> a = load<A>(in), b = load<A>(in + lanes);
            if constexpr (dims == 1) {
                store(out, a + b);
                store(out + band, a - b);
            } else {
                const Vec<A> d = load<A>(in + pitch), e = load<A>(in + pitch + lanes);
                const Vec<A> top = a + b, bottom = d + e, left = a - b, right = d - e;
                store(out, top + bottom);
                store(out + band, top - bottom);
                store(out + 2 * band, left + right);
                store(out + 3 * band, left - right);
            }
        }
    }
}

// Rows of pixels with `pitch` elements from one to the next. A start whose pitch is 0 is one pixel
// for all of them.
template <class A>
struct Rows {
    A* first;
    int64_t pitch;
};

// The filter of a band, (row, column, lane), and the lines under it that are not all zeros,
// counted from the one under its first row.
template <class A>
struct Taps {
    const A* filter;
    int64_t rows, columns, begin, end;
};

// Keeps the compiler from loading x again at every use, and from carrying it from one round of a
// loop to the next, which costs moves.
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

// Filters a tile of rows x columns pixels, whose sums stay in registers. `in` is the pixel under
// the first tap. A pixel that has been loaded serves all rows of the tile. At the left or right
// edge of a plane the zeros beside it are left out.
template <int rows, int columns, int kWidth, bool left, bool right, class A>
FW_INLINE void filter_tile(const A* in, int64_t pitch, const Taps<A>& taps,
                           const Rows<const A>& start, const Rows<A>& out) {
    constexpr int lanes = Vec<A>::size;
    Vec<A> sum[rows][columns];
    if (start.pitch == 0) {
        const Vec<A> all = load<A>(start.first);
        repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
            repeat<columns>([&](auto c) FW_INLINE_LAMBDA { sum[r][c] = all; });
        });
    } else {
        repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
            repeat<columns>([&](auto c) FW_INLINE_LAMBDA {
                sum[r][c] = load<A>(start.first + r * start.pitch + c * lanes);
            });
        });
    }
    const int64_t width = kWidth > 0 ? kWidth : taps.columns, row_of_taps = width * lanes;
    // One line of pixels and the rows begin <= r < end, of which row r is under tap row line - r.
    const auto line = [&](int64_t at, auto begin, auto end) FW_INLINE_LAMBDA {
        const A* x = in + at * pitch;
        const A* w = taps.filter + at * row_of_taps;
        const auto column = [&](auto first, auto last) FW_INLINE_LAMBDA {
            Vec<A> tap[rows];
            repeat<end - begin>([&](auto r) FW_INLINE_LAMBDA {
                tap[begin + r] = load<A>(w - (begin + r) * row_of_taps);
            });
            repeat<last - first>([&](auto i) FW_INLINE_LAMBDA {
                constexpr int c = first + i;
                Vec<A> pixel = load<A>(x + c * lanes);
                in_register(pixel);
                repeat<end - begin>([&](auto r) FW_INLINE_LAMBDA {
                    sum[begin + r][c] = fma(tap[begin + r], pixel, sum[begin + r][c]);
                });
            });
            x += lanes, w += lanes;
        };
        if constexpr (kWidth > 0) {
            repeat<kWidth>([&](auto k) FW_INLINE_LAMBDA {
                constexpr int shift = kWidth / 2 - k;
                constexpr int first = left ? std::clamp(shift, 0, columns) : 0;
                constexpr int last = right ? std::clamp(columns + shift, first, columns) : columns;
                column(std::integral_constant<int, first>{}, std::integral_constant<int, last>{});
            });
        } else {
            for (int64_t k = 0; k < width; ++k) {
                column(std::integral_constant<int, 0>{}, std::integral_constant<int, columns>{});
            }
        }
    };
    using zero = std::integral_constant<int, 0>;
    using one = std::integral_constant<int, 1>;
    using all = std::integral_constant<int, rows>;
    static_assert(rows <= 2);
    if (rows == 2 && taps.begin <= 0) line(0, zero{}, one{});
    const int64_t begin = std::max<int64_t>(taps.begin, rows - 1);
    for (int64_t at = begin, end = std::min(taps.rows, taps.end); at < end; ++at) {
        line(at, zero{}, all{});
    }
    if (rows == 2 && taps.end > taps.rows) line(taps.rows, one{}, all{});
    repeat<rows>([&](auto r) FW_INLINE_LAMBDA {
        repeat<columns>([&](auto c) FW_INLINE_LAMBDA {
            store(out.first + r * out.pitch + c * lanes, sum[r][c]);
        });
    });
}

// What is touched soon: the rows of y that are written next, of all channels, then the planes that
// are read next. Few lines are asked for at a time, as a core waits when it asks for many.
struct Ahead {
    const char* next = nullptr;
    int64_t left = 0;
    char* rows = nullptr;
    int64_t channel = 0, rows_left = 0;  // bytes from one channel to the next, bytes of each

    template <int channels>
    FW_INLINE void ask_rows() {
        for (int i = 0; i < channels; ++i) __builtin_prefetch(rows + i * channel, 1, 2);
        rows += 64;
        rows_left -= 64;
    }
    FW_INLINE void ask(int lines) {
        if (left <= 0) return;
        for (int i = 0; i < lines; ++i) __builtin_prefetch(next + 64 * i, 0, 2);
        next += 64 * lines;
        left -= 64 * lines;
    }
};

// Whole rows of a level's bands, one or two of each, with the filters of one band after another, as
// are the bands and what comes out. The first band starts from `start`, the others from nothing.
template <class A>
struct Strip {
    const A* in;
    int64_t pitch, plane, width;
    Taps<A> taps;
    int64_t bands;
    Rows<const A> start;
    const A* zero;
    A* out;
};

template <int rows, int kWidth, class A>
void filter_rows(const Strip<A>& strip, Ahead& ahead) {
    constexpr int lanes = Vec<A>::size;
    const int64_t row = strip.width * lanes, pitch = strip.pitch;
    Taps<A> taps = strip.taps;
    Rows<const A> start = strip.start;
    Rows<A> out{strip.out, row};
    for (int64_t band = 0; band < strip.bands; ++band) {
        const A* in = strip.in + band * strip.plane;
        out.first = strip.out + band * rows * row;
        int64_t width = strip.width;
        const auto run = [&](auto columns) FW_INLINE_LAMBDA {
            if (ahead.rows_left > 0) {
                ahead.ask_rows<lanes>();
            } else {
                ahead.ask(rows * columns);
            }
            const auto filter = [&](auto left, auto right) FW_INLINE_LAMBDA {
                filter_tile<rows, columns, kWidth, left, right>(in, pitch, taps, start, out);
            };
            using no = std::false_type;
            constexpr bool known = 0 < kWidth && kWidth <= kWidestAtEdges && rows > 1;
            using whole = std::bool_constant<kWholeTiles && known && (columns > 1)>;
            using side = std::bool_constant<kSideTiles && known && columns == kTileColumns>;
            const bool first = width == strip.width, last = width == columns;
            if (whole::value && first && last) {
                filter(whole{}, whole{});
            } else if (side::value && first) {
                filter(side{}, no{});
            } else if (side::value && last) {
                filter(no{}, side{});
            } else {
                filter(no{}, no{});
            }
            in += columns * lanes;
            if (start.pitch != 0) start.first += columns * lanes;
            out.first += columns * lanes;
            width -= columns;
        };
        while (width >= kTileColumns && width != 8) {
            run(std::integral_constant<int, kTileColumns>{});
        }
        while (width >= 4) run(std::integral_constant<int, 4>{});
        if (width >= 2) run(std::integral_constant<int, 2>{});
        if (width >= 1) run(std::integral_constant<int, 1>{});
        taps.filter += taps.rows * taps.columns * lanes;
        start = {strip.zero, 0};
    }
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

// The buffers of one thread: x or a gradient with all its bands.
template <int dims, class A>
class Pyramid {
  public:
    explicit Pyramid(const WTConvShape<dims>& s) : shape_(s) {
        for (int64_t level = 0; level <= s.levels; ++level) start_.push_back(pixels(s, level));
        data_ = zeros<A>(pixels(s) * Vec<A>::size);
    }

    // Of all levels before that one, or of all.
    static int64_t pixels(const WTConvShape<dims>& s, int64_t level) {
        int64_t size = 0;
        for (int64_t l = 0; l < level; ++l) size += (l == 0 ? 1 : s.bands) * s.plane(l);
        return size;
    }
    static int64_t pixels(const WTConvShape<dims>& s) { return pixels(s, s.levels + 1); }

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

    // Reads a plane and transforms it. Bands of level l are 2^(l * dims / 2) times the wavelet's.
    template <class T>
    void read(const T* x, const Strides<dims>& stride, int channels) {
        const auto& s = shape_;
        const int64_t chunk = chunk_rows(s);
        for (int64_t r = 0; r < s.height[0]; r += chunk) {
            const int64_t end = std::min(r + chunk, s.height[0]);
            load_rows<dims>(s, r, end - r, x, stride, channels, band(0));
            if (s.levels > 0) {
                haar_rows<dims>(s, 1, r / dims, (end + dims - 1) / dims, band(0), band(1));
            }
        }
        for (int64_t level = 2; level <= s.levels; ++level) {
            haar_rows<dims>(s, level, 0, s.height[level], band(level - 1), band(level));
        }
    }

  private:
    const WTConvShape<dims>& shape_;
    std::vector<int64_t> start_;
    Buffer<A> data_;
};

// The rows of a plane to which two rows of level 1 belong.
template <int dims>
constexpr int64_t kStep = dims == 1 ? 1 : 4;

// The images on the way back from the deepest level.
template <int dims, class A>
struct Images {
    static constexpr int64_t lanes = Vec<A>::size;
    Buffer<A> bands;      // two filtered rows of every band
    Buffer<A> image[2];   // of the odd, and of the even levels
    Buffer<A> top, rows;  // the rows of level 1 and of the result that are being made
    Buffer<A> constant;   // a pixel of zeros, and one with the bias
    explicit Images(const WTConvShape<dims>& s) {
        const auto of_level = [&](int64_t level, int64_t rows) {
            return level > s.levels ? 0 : rows * s.bands * s.width[level] * lanes;
        };
        bands = zeros<A>(of_level(1, 2));
        top = zeros<A>(of_level(1, 2));
        for (int i = 0; i < 2; ++i) {
            image[i] = zeros<A>(s.levels < 2 + i ? 0 : of_level(2 + i, s.height[2 + i] + 1));
        }
        rows = zeros<A>((kStep<dims> * s.width[0] + 2 * lanes) * lanes);
        constant = zeros<A>(2 * lanes);
    }
};

// The image of rows of filtered bands, `band` elements apart; `offset` is added.
template <int dims, class A>
void inverse_rows(const A* bands, int64_t band, int64_t rows, int64_t width, Vec<A> offset,
                  A* image) {
    constexpr int lanes = Vec<A>::size;
    const int64_t below = 2 * width * lanes;
    for (int64_t r = 0; r < rows; ++r, image += (dims - 1) * below) {
        for (int64_t c = 0; c < width; ++c, bands += lanes, image += 2 * lanes) {
            const Vec<A> low = load<A>(bands) + offset, high = load<A>(bands + band);
            if constexpr (dims == 1) {
                store(image, low + high);
                store(image + lanes, low - high);
            } else {
                const Vec<A> hl = load<A>(bands + 2 * band), hh = load<A>(bands + 3 * band);
                const Vec<A> a = low + high, b = low - high, d = hl + hh, e = hl - hh;
                store(image, a + d);
                store(image + lanes, a - d);
                store(image + below, b + e);
                store(image + below + lanes, b - e);
            }
        }
    }
}

// From the filtered bands of the deepest level back to the image, base + reconstruction. `before`
// counts the taps left of the centre. In the meantime what is touched next comes nearer.
template <int dims, class A, class T>
void synthesize(const WTConvShape<dims>& s, Pyramid<dims, A>& p, const A* filters, int64_t before,
                const A* bias, Images<dims, A>& images, const Output<dims, T>& output,
                Ahead ahead) {
    constexpr int lanes = Vec<A>::size;
    const A* zero = images.constant.get();
    A* offset = images.constant.get() + lanes;
    for (int i = 0; i < lanes; ++i) offset[i] = bias[i];
    using Filter = void (*)(const Strip<A>&, Ahead&);
    Filter one, two;
    with_constant<3, 5, 7>(s.kernel, [&](auto width) {
        constexpr int kernel = sizeof(A) == 4 ? int(width) : 0;
        one = &filter_rows<1, kernel, A>, two = &filter_rows<dims, kernel, A>;
    });
    const auto filter = [&](int64_t level, int64_t r, int64_t rows, const Rows<const A>& start,
                            A* out) {
        const int64_t f = level == 0 ? 0 : 1 + (level - 1) * s.bands;
        const int64_t above = (dims == 2 ? before : 0) - r;
        const Taps<A> taps{filters + f * s.taps() * lanes, s.kernel_height(), s.kernel, above,
                           above + s.height[level]};
        const Strip<A> strip{p.under(level, 0, r, before),
                             s.pitch(level) * lanes,
                             s.plane(level) * lanes,
                             s.width[level],
                             taps,
                             level == 0 ? 1 : s.bands,
                             start,
                             zero,
                             out};
        (rows == 2 ? two : one)(strip, ahead);
    };
    // The image that rows of a level's bands, at most two, and what is deeper make.
    const auto up = [&](int64_t level, int64_t r, int64_t rows, const A* with, A* image) {
        Rows<const A> start{zero, 0};
        if (level < s.levels) {
            const int64_t pitch = 2 * s.width[level + 1] * lanes;
            start = {images.image[(level + 1) % 2].get() + r * pitch, pitch};
        }
        filter(level, r, rows, start, images.bands.get());
        inverse_rows<dims>(images.bands.get(), rows * s.width[level] * lanes, rows, s.width[level],
                           load<A>(with), image);
    };
    for (int64_t level = s.levels; level >= 2; --level) {
        for (int64_t r = 0; r < s.height[level]; r += 2) {
            up(level, r, std::min<int64_t>(2, s.height[level] - r), zero,
               &images.image[level % 2][r * dims * 2 * s.width[level] * lanes]);
        }
    }
    // Few rows at a time: what is written leaves the core while the next ones are computed.
    const int64_t height = s.height[0], width = s.width[0];
    int64_t pixels = 0;
    for (int64_t first = 0; first < height; first += kStep<dims>) {
        const int64_t end = std::min(first + kStep<dims>, height);
        const A* image = images.top.get();
        int64_t pitch = 0;
        if (output.whole_runs()) {
            ahead.rows = reinterpret_cast<char*>(output.y + pixels);
            ahead.channel = output.stride.channel * sizeof(T);
            ahead.rows_left = (end * width - pixels) * sizeof(T);
        }
        if (s.levels > 0) {
            const int64_t half = first / dims;
            up(1, half, std::min<int64_t>(2, s.height[1] - half), offset, images.top.get());
            pitch = 2 * s.width[1] * lanes;
        }
        for (int64_t r = first; r < end; r += 2) {
            A* out = &images.rows[(r * width - pixels) * lanes];
            Rows<const A> start{offset, 0};
            if (s.levels > 0) start = {image + (r - first) * pitch, pitch};
            filter(0, r, std::min<int64_t>(2, end - r), start, out);
        }
        const int64_t ready = end * width - pixels;
        const int64_t taken = output.write(pixels, ready, end == height, images.rows.get());
        pixels += taken;
        std::memmove(images.rows.get(), &images.rows[taken * lanes],
                     (ready - taken) * lanes * sizeof(A));
    }
}

}  // namespace fusewright::cpu::FW_ISA
