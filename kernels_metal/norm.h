// layer_norm (centred) and rms_norm: a threadgroup has a row, whose elements stay in registers as
// far as they fit.
#pragma once

#include "activation.h"

enum { kKept = 8 };  // elements of a row that a thread keeps; those beyond are read again

// Where a thread is: its place in the threadgroup, and in the simdgroup.
struct Place {
    uint thread_index, threads, lane, simdgroup, simdgroups, group, groups;
};

// The parameters of a kernel that make a Place.
#define FW_PLACE                                                                                 \
    uint thread_index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]], \
        uint lane [[thread_index_in_simdgroup]],                                                 \
        uint simdgroup [[simdgroup_index_in_threadgroup]],                                       \
        uint simdgroups [[simdgroups_per_threadgroup]],                                          \
        uint group [[threadgroup_position_in_grid]], uint groups [[threadgroups_per_grid]]
#define FW_PLACE_OF {thread_index, threads, lane, simdgroup, simdgroups, group, groups}

// The sum over a threadgroup of whole simdgroups; `scratch` holds a float for each.
inline float group_sum(float v, threadgroup float* scratch, const thread Place& at) {
    v = simd_sum(v);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the sum before has been read
    if (at.lane == 0) scratch[at.simdgroup] = v;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    return simd_sum(at.lane < at.simdgroups ? scratch[at.lane] : 0.0f);
}

inline float norm_weight(const device uchar* weight, constant FwNormArgs& args, int64_t i) {
    if (args.weight_dtype == FW_NONE) return 1.0f;
    return load_any(weight, args.weight_dtype, i) + args.weight_offset;
}

inline float norm_bias(const device uchar* bias, constant FwNormArgs& args, int64_t i) {
    return args.bias_dtype == FW_NONE ? 0.0f : load_any(bias, args.bias_dtype, i);
}

// The forward's tensors; those that an operator has not are any.
template <typename T>
struct NormForward {
    const device T* x;
    const device uchar* weight;
    const device uchar* bias;
    const device uchar* residual;
    device T* y;
    device uchar* total;
    device float* mean;
    device float* rstd;

    // An element of the row to normalise, which is x's or, written by this, its sum's.
    float first(constant FwNormArgs& args, int64_t row, int64_t i) const {
        float v = to_acc(x[row * args.x_row + i * args.x_step]);
        if (args.residual_dtype == FW_NONE) return v;
        const int64_t at = row * args.residual_row + i * args.residual_step;
        v = through(args.residual_dtype, v + load_any(residual, args.residual_dtype, at));
        store_any(total, args.residual_dtype, row * args.columns + i, v);
        return v;
    }

    // The same again, by the thread that wrote it.
    float again(constant FwNormArgs& args, int64_t row, int64_t i) const {
        if (args.residual_dtype == FW_NONE) return to_acc(x[row * args.x_row + i * args.x_step]);
        return load_any(total, args.residual_dtype, row * args.columns + i);
    }

    void store(constant FwNormArgs& args, int64_t row, int64_t i, float v) const {
        if (args.round_first) v = to_acc(from_acc<T>(v));
        v = v * norm_weight(weight, args, i) + norm_bias(bias, args, i);
        y[row * args.columns + i] = from_acc<T>(activate(args.activation, v));
    }
};

template <typename T, bool centred>
inline void norm_row(NormForward<T> io, constant FwNormArgs& args, int64_t row,
                     threadgroup float* scratch, Place at) {
    const int64_t n = args.columns, step = at.threads, rest = at.thread_index + kKept * step;
    float kept[kKept];
    float sum = 0, square = 0;
    for (int k = 0; k < kKept; ++k) {
        const int64_t i = at.thread_index + k * step;
        kept[k] = i < n ? io.first(args, row, i) : 0.0f;
        sum += kept[k];
        square += kept[k] * kept[k];
    }
    for (int64_t i = rest; i < n; i += step) {
        const float v = io.first(args, row, i);
        sum += v;
        square += v * v;
    }
    float mean = 0, lost = 0;  // what the rounded mean lost
    if (centred) {
        mean = group_sum(sum, scratch, at) / float(n);
        sum = 0, square = 0;
        for (int k = 0; k < kKept; ++k) {
            const float d = at.thread_index + k * step < n ? kept[k] - mean : 0.0f;
            sum += d;
            square += d * d;
        }
        for (int64_t i = rest; i < n; i += step) {
            const float d = io.again(args, row, i) - mean;
            sum += d;
            square += d * d;
        }
        lost = group_sum(sum, scratch, at) / float(n);
    }
    const float variance = group_sum(square, scratch, at) / float(n) - lost * lost;
    const float rstd = precise::rsqrt(max(variance, 0.0f) + args.eps);
    if (at.thread_index == 0) {
        if (centred) io.mean[row] = mean + lost;  // the nearest float
        io.rstd[row] = rstd;
    }
    for (int k = 0; k < kKept; ++k) {
        const int64_t i = at.thread_index + k * step;
        if (i < n) io.store(args, row, i, ((kept[k] - mean) - lost) * rstd);
    }
    for (int64_t i = rest; i < n; i += step) {
        io.store(args, row, i, ((io.again(args, row, i) - mean) - lost) * rstd);
    }
}

template <typename T, bool centred>
inline void norm_forward(NormForward<T> io, constant FwNormArgs& args, threadgroup float* scratch,
                         Place at) {
    for (int64_t row = at.group; row < args.rows; row += at.groups) {
        norm_row<T, centred>(io, args, row, scratch, at);
    }
}

// The backward's tensors. T is the dtype of what was normalised.
template <typename T>
struct NormBackward {
    const device uchar* grad_y;
    const device uchar* grad_total;
    const device T* x;
    const device uchar* weight;
    const device uchar* bias;
    const device float* mean;
    const device float* rstd;
    device T* grad_x;
};

// One element: normalised, as the weight met it, and the gradient behind the activation.
struct NormElement {
    float x, rounded, grad;
};

template <typename T, bool centred>
inline NormElement norm_element(const thread NormBackward<T>& io, constant FwNormArgs& args,
                                int64_t row, int64_t i, float lost) {
    NormElement e;
    const float v = to_acc(io.x[row * args.x_row + i * args.x_step]);
    e.x = (centred ? (v - io.mean[row]) - lost : v) * io.rstd[row];
    // y's dtype, to which Llama's order rounds, is that of its gradient
    e.rounded = args.round_first ? through(args.grad_y_dtype, e.x) : e.x;
    e.grad = 0;
    if (args.grad_y_dtype == FW_NONE) return e;
    e.grad = load_any(io.grad_y, args.grad_y_dtype, row * args.grad_y_row + i * args.grad_y_step);
    if (args.activation != FW_ACT_NONE) {
        const float v_out =
            e.rounded * norm_weight(io.weight, args, i) + norm_bias(io.bias, args, i);
        e.grad *= activate_grad(args.activation, v_out);
    }
    return e;
}

template <typename T, bool centred>
inline void norm_backward_row(NormBackward<T> io, constant FwNormArgs& args, int64_t row,
                              threadgroup float* scratch, Place at) {
    const int64_t n = args.columns, step = at.threads, rest = at.thread_index + kKept * step;
    float lost = 0;  // what the rounded mean lost
    if (centred) {
        for (int64_t i = at.thread_index; i < n; i += step) {
            lost += to_acc(io.x[row * args.x_row + i * args.x_step]) - io.mean[row];
        }
        lost = group_sum(lost, scratch, at) / float(n);
    }
    float xs[kKept], grads[kKept];
    float shift = 0, slope = 0;
    for (int k = 0; k < kKept; ++k) {
        const int64_t i = at.thread_index + k * step;
        xs[k] = 0, grads[k] = 0;
        if (i < n) {
            const NormElement e = norm_element<T, centred>(io, args, row, i, lost);
            xs[k] = e.x;
            grads[k] = e.grad * norm_weight(io.weight, args, i);
        }
        shift += grads[k];
        slope += grads[k] * xs[k];
    }
    for (int64_t i = rest; i < n; i += step) {
        const NormElement e = norm_element<T, centred>(io, args, row, i, lost);
        const float grad = e.grad * norm_weight(io.weight, args, i);
        shift += grad;
        slope += grad * e.x;
    }
    shift = centred ? group_sum(shift, scratch, at) / float(n) : 0.0f;
    slope = group_sum(slope, scratch, at) / float(n);
    for (int64_t i = at.thread_index, k = 0; i < n; i += step, ++k) {
        float x = 0, grad = 0;
        if (k < kKept) {
            x = xs[k], grad = grads[k];
        } else {
            const NormElement e = norm_element<T, centred>(io, args, row, i, lost);
            x = e.x, grad = e.grad * norm_weight(io.weight, args, i);
        }
        float v = ((grad - shift) - x * slope) * io.rstd[row];
        if (args.grad_total_dtype != FW_NONE) {
            const int64_t from = row * args.grad_total_row + i * args.grad_total_step;
            v += load_any(io.grad_total, args.grad_total_dtype, from);
        }
        io.grad_x[row * args.grad_x_row + i * args.grad_x_step] = from_acc<T>(v);
    }
}

template <typename T, bool centred>
inline void norm_backward_input(NormBackward<T> io, constant FwNormArgs& args,
                                threadgroup float* scratch, Place at) {
    for (int64_t row = at.group; row < args.rows; row += at.groups) {
        norm_backward_row<T, centred>(io, args, row, scratch, at);
    }
}

// The sums of a part of the rows: a thread has a column.
template <typename T, bool centred>
inline void norm_backward_parameters(NormBackward<T> io, device float* partial,
                                     constant FwNormArgs& args, uint2 at) {
    const int64_t i = at.x, part = at.y;
    if (i >= args.columns) return;
    float weight = 0, bias = 0;
    const int64_t end = (part + 1) * args.rows / args.parts;
    for (int64_t row = part * args.rows / args.parts; row < end; ++row) {
        const NormElement e = norm_element<T, centred>(io, args, row, i, 0);
        weight += e.grad * e.rounded;
        bias += e.grad;
    }
    partial[2 * part * args.columns + i] = weight;
    partial[(2 * part + 1) * args.columns + i] = bias;
}

// The sum of all parts, of the weight (0) or the bias (1), in their order.
inline float norm_total(const device float* partial, constant FwNormArgs& args, int which,
                        int64_t i) {
    float sum = 0;
    for (int64_t part = 0; part < args.parts; ++part) {
        sum += partial[(2 * part + which) * args.columns + i];
    }
    return sum;
}
