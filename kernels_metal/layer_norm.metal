// layer_norm: layer norm after an optional sum, before an activation, and its gradients.
//
// layer_norm_forward: 0 x, 1 weight, 2 bias, 3 residual, 4 y, 5 residual_out, 6 mean, 7 rstd,
//   8 FwNormArgs; norm_dispatch. y and residual_out are dense; the statistics are floats.
// In the backward, x is residual_out where there was a residual, and the dtype of the name is its;
// grad_y and grad_residual_out, each of a dtype of its own, may be absent.
// layer_norm_backward_input: 0 grad_y, 1 grad_residual_out, 2 x, 3 weight, 4 bias, 5 mean, 6 rstd,
//   7 grad_x, 8 FwNormArgs; norm_dispatch.
// layer_norm_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 bias, 4 mean, 5 rstd,
//   6 partial (args.parts, 2, columns) floats, 7 FwNormArgs; norm_backward_parameters_dispatch,
//   args.parts = norm_parts(); only where there is a grad_y. Then
// layer_norm_backward_sum_float: 0 partial, 1 grad_weight, 2 grad_bias, 3 FwNormArgs;
//   norm_backward_sum_dispatch. Gradients that are not wanted have the dtype FW_NONE.
