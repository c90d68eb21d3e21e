// The arguments of the Metal kernels, as plain structs that Metal, C++ and Objective-C++ lay out
// alike. How each kernel is bound and launched stands at the head of its .metal file; grids and
// paths come from plan.h.
//
// For all kernels:
// - A kernel's [[host_name]] is `<op>_<part>_<dtype>`, dtype being float, half or bfloat: that of
//   the tensor which the kernel's head names, x where it names none.
// - Buffers are the tensors in the order of the head; a storage offset is the byte offset of the
//   binding. The struct comes last, by setBytes.
// - An optional tensor that is absent has the dtype FW_NONE, or a flag of 0, in the struct; any
//   valid buffer may be bound in its place.
// - Strides and sizes count elements. Parameters (weights, biases, scales) are dense, of a dtype of
//   their own; a tensor without strides in the struct is dense as well.
// - Kernels are launched by dispatchThreadgroups with the groups, threads and threadgroup memory of
//   an FwDispatch; a dispatch of no groups is left out.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
using namespace metal;
#else
#include <stdint.h>
#endif

enum { FW_NONE = -1, FW_FLOAT = 0, FW_HALF = 1, FW_BFLOAT = 2, FW_INT = 3, FW_LONG = 4 };
enum { FW_ACT_NONE = 0, FW_ACT_RELU = 1, FW_ACT_GELU = 2, FW_ACT_GELU_TANH = 3, FW_ACT_SILU = 4 };

// haar1d, ihaar1d, haar2d, ihaar2d, and the low band alone (wtconv*_low). The output is dense.
typedef struct {
    int64_t planes, channels;                        // N * C, C
    int64_t height, width;                           // of the image; a height of 1 in 1D
    int64_t stride_n, stride_c, stride_h, stride_w;  // of the input: the image or the bands
} FwHaarArgs;

enum { FW_WT_LEVELS = 8 };  // at most in one kernel

// One level of a wavelet convolution's region. `low` and `recon` are offsets in threadgroup memory,
// of the image that the level transforms and of what deeper levels add to it.
typedef struct {
    int32_t height, width;  // of the image that the level transforms, the region's halo included
    int32_t row, rows;      // as it is stored: the distance of rows, and their number; both even
    int32_t low, recon;
} FwWtLevel;

// wtconv*_forward (also the gradient of x, with flipped filters) and wtconv*_backward_filters.
// Filled by plan.h but for the strides and dtypes.
typedef struct {
    int64_t n, channels, height, width;  // of the image; a height of 1 in 1D
    int64_t x_n, x_c, x_h, x_w;          // strides of x
    int64_t y_n, y_c, y_h, y_w;          // strides of y, or of its gradient
    int64_t groups, chunks;              // groups of images; parts of the filters' sums
    int32_t kernel_size, levels;         // taps along one dimension; levels of this step
    int32_t base, deeper;                // flags: the base filter; the tensor `deeper`
    int32_t flipped, staged;             // flags: turned filters; x in threadgroup memory
    int32_t group;                       // images in a threadgroup at once
    int32_t tile_h, tile_w, tiles_h, tiles_w, halo_h, halo_w;
    int32_t image, weights;  // in threadgroup memory: floats an image, and where filters begin
    int32_t base_weight_dtype, base_bias_dtype, base_scale_dtype;
    int32_t weight_dtype[FW_WT_LEVELS], scale_dtype[FW_WT_LEVELS];
    FwWtLevel level[FW_WT_LEVELS];
} FwWtArgs;

// wtconv*_backward_sum: the gradients of one level's parameters from the partial sums.
typedef struct {
    int64_t channels, chunks;
    int32_t taps, bands;     // taps of a filter in all; filters a channel of this level
    int32_t first, filters;  // the level's first filter, and all, a channel of the partial sums
    int32_t weight_dtype, scale_dtype, bias_dtype;  // bias_dtype: FW_NONE but for a base with bias
    int32_t grad_weight, grad_scale, grad_bias;     // flags: which are wanted
} FwWtSumArgs;

// causal_conv1d and its backward. Three strides are those of (batch, channels, length).
typedef struct {
    int64_t batch, channels, length, width;
    int64_t x[3], y[3];  // y: also of its gradient
    int64_t grad_x[3];
    int64_t seq_idx[2];                          // (batch, length)
    int64_t initial_states[3], final_states[3];  // final_states: also of their gradient
    int64_t grad_initial_states[3];
    int64_t parts;  // of the filters' sums
    int32_t silu;
    int32_t weight_dtype, bias_dtype, seq_idx_dtype, initial_dtype;
    int32_t final_states_dtype;  // x's in the forward, of the gradient in the backward
    int32_t has_grad_y;          // of x's dtype
    int32_t needs_grad_x, grad_initial_dtype;
    int32_t grad_weight_dtype, grad_bias_dtype;
    int32_t channels_inside;  // x's channels are its innermost dimension
} FwCausalArgs;

// causal_conv1d_update. Strides are those of (batch, channels, steps) and (states, channels,
// length).
typedef struct {
    int64_t batch, channels, steps, width, states, length;
    int64_t x[3], y[3], conv_state[3];
    int32_t silu;
    int32_t weight_dtype, bias_dtype, conv_state_dtype;
    int32_t seqlens_dtype, indices_dtype;  // FW_INT, FW_LONG or FW_NONE; dense
} FwCausalUpdateArgs;

// causal_conv1d_varlen_states and its backward.
typedef struct {
    int64_t total, channels, sequences, state_len;
    int64_t x[2];          // (total, channels): also of its gradient
    int64_t y[3];          // (sequences, channels, state_len): also of its gradient
    int32_t bounds_dtype;  // FW_INT or FW_LONG; dense
} FwVarlenArgs;

// layer_norm and rms_norm, over rows. A row stride and a step from column to column each; where
// leading or trailing dimensions are no such rows, the host makes them dense.
typedef struct {
    int64_t rows, columns;
    int64_t x_row, x_step, residual_row, residual_step;
    int64_t grad_y_row, grad_y_step, grad_total_row, grad_total_step;
    int64_t grad_x_row, grad_x_step;
    int64_t parts;  // of the parameters' sums
    float eps, weight_offset;
    int32_t activation, round_first;
    int32_t weight_dtype, bias_dtype, residual_dtype;  // residual_out has the residual's dtype
    int32_t grad_y_dtype, grad_total_dtype;            // of grad_y and grad_residual_out
    int32_t grad_weight_dtype, grad_bias_dtype;
} FwNormArgs;
