// rms_norm: root-mean-square norm after an optional sum, before an activation, and its gradients.
//
// rms_norm_forward: 0 x, 1 weight, 2 residual, 3 y, 4 residual_out, 5 rstd, 6 FwNormArgs;
//   norm_dispatch. y and residual_out are dense; rstd is floats.
// In the backward, x is residual_out where there was a residual, and the dtype of the name is its;
// grad_y and grad_residual_out, each of a dtype of its own, may be absent.
// rms_norm_backward_input: 0 grad_y, 1 grad_residual_out, 2 x, 3 weight, 4 rstd, 5 grad_x,
//   6 FwNormArgs; norm_dispatch.
// rms_norm_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 rstd,
//   4 partial (args.parts, 2, columns) floats, 5 FwNormArgs; norm_backward_parameters_dispatch,
//   args.parts = norm_parts(); only where there is a grad_y. Then
// rms_norm_backward_sum_float: 0 partial, 1 grad_weight, 2 FwNormArgs; norm_backward_sum_dispatch.
