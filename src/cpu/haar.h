// The Haar transform and its inverse, in one and two dimensions: two rows of x are two or four rows
// of bands. Both directions round once and read and write every element once.
#pragma once

#include <memory>

#include "cpu/alloc.h"
#include "cpu/row.h"
#include "cpu/tensor.h"

namespace fusewright::cpu::FW_ISA {

constexpr int64_t kHaarGrain = 32768;  // elements that are worth a thread

// An image tensor as (batch, channel, row, column); 1D has one row.
template <int dims>
struct Image {
    int64_t batch, channels, height, width;
    int64_t batch_stride, channel_stride, row_stride, step;

    Image(const Tensor& t, const char* op)
        : batch((check_rank(t, dims + 2, op, "x"), t.size(0))),
          channels(t.size(1)),
          height(dims == 2 ? t.size(2) : 1),
          width(t.size(dims + 1)),
          batch_stride(t.stride(0)),
          channel_stride(t.stride(1)),
          row_stride(dims == 2 ? t.stride(2) : 0),
          step(t.stride(dims + 1)) {}

    int64_t offset(int64_t b, int64_t c, int64_t row) const {
        return b * batch_stride + c * channel_stride + row * row_stride;
    }
};

// Calls f(batch, channel, pair of rows) in parallel.
template <class F>
void for_each_pair(int64_t batch, int64_t channels, int64_t pairs, int64_t row_elements, F&& f) {
    const int64_t grain = std::max<int64_t>(1, kHaarGrain / (row_elements + 1));
    torch::stable::parallel_for(0, batch * channels * pairs, grain,
                                [&](int64_t begin, int64_t end) {
                                    f(begin, end, [&](int64_t i, auto&& body) {
                                        body(i / pairs / channels, i / pairs % channels, i % pairs);
                                    });
                                });
}

template <int dims>
Tensor haar_forward(const char* op, const Tensor& x, int64_t height, int64_t width) {
    const Image<dims> in(x, op);
    FW_CHECK(in.height == height && in.width == width, op, "x is an image of ", in.height, " x ",
             in.width, ", must be of ", height, " x ", width);
    const int64_t h = dims == 2 ? (in.height + 1) / 2 : 1, w = (in.width + 1) / 2;
    constexpr int bands = 1 << dims;
    std::vector<int64_t> shape{in.batch, bands * in.channels};
    if (dims == 2) shape.push_back(h);
    shape.push_back(w);
    Tensor y = fresh(x, shape);
    with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const A half = dims == 2 ? A(0.5) : A(0.70710678118654752440);
        for_each_pair(
            in.batch, in.channels, h, bands * w, [&](int64_t begin, int64_t end, auto&& visit) {
                std::vector<A> top(2 * w), bottom(2 * w);  // what the loads leave alone stays zero
                const std::unique_ptr<A[]> out(new A[bands * w]);
                for (int64_t i = begin; i < end; ++i) {
                    visit(i, [&](int64_t b, int64_t c, int64_t r) {
                        const T* from = x.const_data_ptr<T>();
                        load_row(from + in.offset(b, c, dims * r), in.step, in.width, top.data());
                        if (dims == 2) {
                            if (2 * r + 1 < in.height) {
                                load_row(from + in.offset(b, c, 2 * r + 1), in.step, in.width,
                                         bottom.data());
                            } else {
                                std::fill(bottom.begin(), bottom.end(), A(0));
                            }
                        }
                        A *ll = out.get(), *lh = ll + w, *hl = lh + w, *hh = hl + w;
                        for (int64_t j = 0; j < w; ++j) {
                            const A p = top[2 * j], q = top[2 * j + 1];
                            if constexpr (dims == 1) {
                                ll[j] = (p + q) * half;
                                lh[j] = (p - q) * half;
                            } else {
                                const A s = bottom[2 * j], t = bottom[2 * j + 1];
                                ll[j] = ((p + q) + (s + t)) * half;
                                lh[j] = ((p + q) - (s + t)) * half;
                                hl[j] = ((p - q) + (s - t)) * half;
                                hh[j] = ((p - q) - (s - t)) * half;
                            }
                        }
                        for (int64_t band = 0; band < bands; ++band) {
                            const int64_t row = ((b * in.channels + c) * bands + band) * h + r;
                            store_row(out.get() + band * w, 1, w,
                                      y.mutable_data_ptr<T>() + row * w);
                        }
                    });
                }
            });
    });
    return y;
}

template <int dims>
Tensor haar_inverse(const char* op, const Tensor& x, int64_t height, int64_t width) {
    const Image<dims> in(x, op);
    constexpr int bands = 1 << dims;
    FW_CHECK(in.channels % bands == 0, op, "x.size(1) is ", in.channels, ", must be a multiple of ",
             bands);
    FW_CHECK(height >= 0 && width >= 0 && (width + 1) / 2 == in.width &&
                 (dims == 1 || (height + 1) / 2 == in.height),
             op, "the image is ", height, " x ", width, ", must be that of bands of ", in.height,
             " x ", in.width);
    const int64_t channels = in.channels / bands, w = in.width;
    std::vector<int64_t> shape{in.batch, channels};
    if (dims == 2) shape.push_back(height);
    shape.push_back(width);
    Tensor y = fresh(x, shape);
    with_dtype(x.scalar_type(), op, [&](auto type) {
        using T = typename decltype(type)::type;
        using A = acc_t<T>;
        const A half = dims == 2 ? A(0.5) : A(0.70710678118654752440);
        for_each_pair(
            in.batch, channels, in.height, bands * w,
            [&](int64_t begin, int64_t end, auto&& visit) {
                const std::unique_ptr<A[]> from(new A[bands * w]), out(new A[4 * w]);
                A *top = out.get(), *bottom = top + 2 * w;
                for (int64_t i = begin; i < end; ++i) {
                    visit(i, [&](int64_t b, int64_t c, int64_t r) {
                        for (int64_t band = 0; band < bands; ++band) {
                            load_row(x.const_data_ptr<T>() + in.offset(b, c * bands + band, r),
                                     in.step, w, from.get() + band * w);
                        }
                        const A *ll = from.get(), *lh = ll + w, *hl = lh + w, *hh = hl + w;
                        for (int64_t j = 0; j < w; ++j) {
                            if constexpr (dims == 1) {
                                top[2 * j] = (ll[j] + lh[j]) * half;
                                top[2 * j + 1] = (ll[j] - lh[j]) * half;
                            } else {
                                const A p = ll[j] + lh[j], q = ll[j] - lh[j];
                                const A s = hl[j] + hh[j], t = hl[j] - hh[j];
                                top[2 * j] = (p + s) * half;
                                top[2 * j + 1] = (p - s) * half;
                                bottom[2 * j] = (q + t) * half;
                                bottom[2 * j + 1] = (q - t) * half;
                            }
                        }
                        const int64_t first = (b * channels + c) * (dims == 2 ? height : 1);
                        T* to = y.mutable_data_ptr<T>() + (first + dims * r) * width;
                        if (dims == 1) to = y.mutable_data_ptr<T>() + first * width;
                        store_row(top, 1, width, to);
                        if (dims == 2 && 2 * r + 1 < height)
                            store_row(bottom, 1, width, to + width);
                    });
                }
            });
    });
    return y;
}

}  // namespace fusewright::cpu::FW_ISA
