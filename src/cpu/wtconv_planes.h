// The sizes of a wavelet convolution, and its planes between memory and vectors of channels.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/alloc.h"
#include "cpu/tensor.h"
#include "cpu/transpose.h"

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

// Whole vectors on their boundaries never cross a cache line.
struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class A>
using Buffer = std::unique_ptr<A[], Free>;

template <class A>
Buffer<A> zeros(int64_t n) {
    const size_t bytes = (n * sizeof(A) + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
    void* p = std::aligned_alloc(kVectorBytes, std::max<size_t>(bytes, kVectorBytes));
    if (p == nullptr) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return Buffer<A>(static_cast<A*>(p));
}

// Rows of x, and of the result, that stay in the nearest cache from one step to the next.
template <int dims>
int64_t chunk_rows(const WTConvShape<dims>& s) {
    return dims == 1 ? 1 : std::max<int64_t>(4, 256 / s.width[0] / 4 * 4);
}

template <class T>
void store_run(T* p, Vec<acc_t<T>> v, int64_t step, int n) {
    if (step == 1) {
        n == v.size ? store(p, v) : store_partial(p, v, n);
        return;
    }
    for (int i = 0; i < n; ++i) p[i * step] = from_acc<T>(v[i]);
}

// Whether the rows of a plane follow each other in memory.
template <int dims>
bool dense_plane(const WTConvShape<dims>& s, const Strides<dims>& stride) {
    return dims == 1 || stride.row == s.width[0] * stride.column;
}

// Calls f(first pixel, pixels) for runs of at most a vector of pixels that are neighbours in
// memory: along the whole plane where its rows follow each other, else along each row.
template <int dims, class F>
void for_each_run(const WTConvShape<dims>& s, const Strides<dims>& stride, int lanes, int64_t begin,
                  int64_t end, F&& f) {
    const int64_t width = s.width[0];
    const bool dense = dense_plane(s, stride);
    for (int64_t i = begin; i < end;) {
        int64_t n = std::min<int64_t>(lanes, end - i);
        if (!dense) n = std::min(n, width - i % width);
        f(i, static_cast<int>(n));
        i += n;
    }
}

// Reads `count` blocks of a vector of neighbours of as many channels into rows of `width` pixels
// with a gap between them, from `column` on.
template <class A, class T>
void load_blocks(const T* from, int64_t channel, int64_t count, A* to, int64_t column,
                 int64_t width, int64_t gap) {
    constexpr int lanes = Vec<A>::size, step = std::min(lanes, 4);
    for (; count > 0; --count, from += lanes) {
        native_t<A> block[lanes];
        load_transposed<A>(from, channel, block);
        repeat<lanes / step>([&](auto q) FW_INLINE_LAMBDA {
            constexpr int first = q * step;
            if (column + step < width) {  // most steps stay within a row
                repeat<step>([&](auto i) FW_INLINE_LAMBDA {
                    store(to + i * lanes, Vec<A>(block[first + i]));
                });
                to += step * lanes, column += step;
                return;
            }
            repeat<step>([&](auto i) FW_INLINE_LAMBDA {
                store(to, Vec<A>(block[first + i]));
                to += lanes;
                if (++column == width) column = 0, to += gap;
            });
        });
    }
}

// The inverse, of pixels without a gap.
template <class A, class T>
void store_blocks(const A* from, int64_t count, T* to, int64_t channel) {
    constexpr int lanes = Vec<A>::size;
    for (; count > 0; --count, from += lanes * lanes, to += lanes) {
        native_t<A> block[lanes];
        load_transposed<A>(from, lanes, block);
        T* p = to;
        repeat<lanes>([&](auto k) FW_INLINE_LAMBDA {
            store(p, Vec<A>(block[k]));
            p += channel;
        });
    }
}

// Reads rows of a plane into its bordered buffer; the lanes past the last channel are zero.
template <int dims, class A, class T>
void load_rows(const WTConvShape<dims>& s, int64_t first_row, int64_t rows, const T* x,
               const Strides<dims>& stride, int channels, A* buffer) {
    constexpr int lanes = Vec<A>::size;
    const int64_t width = s.width[0];
    const auto pixel = [&](int64_t row, int64_t column) {
        return buffer + (s.origin(0) + row * s.pitch(0) + column) * lanes;
    };
    if (stride.channel == 1 && channels > 1) {
        for (int64_t r = first_row; r < first_row + rows; ++r) {
            A* to = pixel(r, 0);
            for (int64_t c = 0; c < width; ++c) {
                store(to + c * lanes,
                      load_partial<A>(x + r * stride.row + c * stride.column, channels));
            }
        }
        return;
    }
    const int64_t gap = (s.pitch(0) - width) * lanes;
    const int64_t begin = first_row * width, end = begin + rows * width;
    if (channels == lanes && stride.column == 1 && dense_plane(s, stride)) {
        const auto blocks = [&](int64_t first, int64_t count) {
            load_blocks(x + first, stride.channel, count, pixel(first / width, first % width),
                        first % width, width, gap);
        };
        blocks(begin, (end - begin) / lanes);
        if ((end - begin) % lanes == 0) return;
        if (end >= lanes) return blocks(end - lanes, 1);  // some of them once more
    }
    for_each_run(s, stride, lanes, begin, end, [&](int64_t first, int n) {
        int64_t row = first / width, column = first % width;
        native_t<A> block[lanes];
        load_block<A>(x + row * stride.row + column * stride.column, stride.channel, channels,
                      stride.column, n, block);
        A* to = pixel(row, column);
        for (int i = 0; i < n; ++i) {
            store(to, Vec<A>(block[i]));
            to += lanes;
            if (++column == width) column = 0, to += gap;
        }
    });
}

// Where the result of a plane goes.
template <int dims, class T>
struct Output {
    using A = acc_t<T>;
    static constexpr int lanes = Vec<A>::size;
    const WTConvShape<dims>& s;
    T* y;
    Strides<dims> stride;
    int channels;

    // Whether every channel of a full vector takes its pixels in one run.
    bool whole_runs() const {
        return channels == lanes && stride.column == 1 && dense_plane(s, stride);
    }

    // Writes pixels without borders, n from `first_pixel` on, and gives how many it took: all of
    // the last ones, else it may leave a part of a vector for the next call.
    int64_t write(int64_t first_pixel, int64_t n, bool last, const A* pixels) const {
        const int64_t width = s.width[0];
        if (stride.channel == 1 && channels > 1) {
            for (int64_t i = first_pixel; i < first_pixel + n; ++i, pixels += lanes) {
                store_partial(y + i / width * stride.row + i % width * stride.column,
                              load<A>(pixels), channels);
            }
            return n;
        }
        if (!last && dense_plane(s, stride)) n -= n % lanes;
        if (whole_runs() && n >= lanes) {
            const auto blocks = [&](int64_t first, int64_t count) {
                store_blocks(pixels + first * lanes, count, y + first_pixel + first,
                             stride.channel);
            };
            blocks(0, n / lanes);
            if (n % lanes > 0) blocks(n - lanes, 1);  // some of them once more
            return n;
        }
        for_each_run(s, stride, lanes, first_pixel, first_pixel + n, [&](int64_t i, int count) {
            native_t<A> block[lanes];
            const A* from = pixels + (i - first_pixel) * lanes;
            load_transposed<A>(from, lanes, block);  // past the end is room for more pixels
            T* to = y + i / width * stride.row + i % width * stride.column;
            for (int k = 0; k < channels; ++k) {
                store_run(to + k * stride.channel, Vec<A>(block[k]), stride.column, count);
            }
        });
        return n;
    }
};

}  // namespace fusewright::cpu::FW_ISA
