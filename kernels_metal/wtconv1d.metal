// wtconv1d: the wavelet convolution in one dimension and its gradients. plan.h's wt_steps() gives
// the dispatches; a step's x and y are those of the call for step 0, and dense floats for the
// others, whose kernels are then those of float.
//
// wtconv1d_low: 0 x, 1 low (dense floats), 2 FwHaarArgs; haar_dispatch. Step k's image from that of
//   step k - 1.
// wtconv1d_forward: 0 x, 1 base_weight, 2 base_bias, 3 base_scale, 4-11 wavelet_weights of the
//   step's levels, 12-19 wavelet_scales, 20 deeper (floats), 21 y, 22 FwWtArgs; WtStep::dispatch.
//   Where args.base or args.deeper is 0, or the step has fewer levels, those are absent. With
//   args.flipped, x is grad_y, y is grad_x and there is no bias.
// wtconv1d_backward_filters: 0 grad_y, 1 x, 2 partial (WtStep::partials floats), 3 FwWtArgs;
//   WtStep::dispatch. grad_y has x's dtype. For step k both are low bands: of grad_y as of x. Then
//   for the base and for every level
// wtconv1d_backward_sum_float: 0 partial, 1 weight, 2 scale, 3 bias, 4 grad_weight, 5 grad_scale,
//   6 grad_bias, 7 FwWtSumArgs; wt_backward_sum_dispatch. A gradient has its parameter's dtype.
