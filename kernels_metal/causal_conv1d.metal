// causal_conv1d: the causal depthwise convolution and its gradients; every width, layout and dtype.
//
// causal_conv1d_forward: 0 x, 1 weight, 2 bias, 3 seq_idx, 4 initial_states, 5 y, 6 final_states,
//   7 FwCausalArgs; causal_forward_dispatch. final_states_dtype is x's, or FW_NONE without them.
// causal_conv1d_backward_input: 0 grad_y, 1 grad_final_states, 2 x, 3 weight, 4 bias, 5 seq_idx,
//   6 initial_states, 7 grad_x, 8 grad_initial_states, 9 FwCausalArgs;
//   causal_backward_input_dispatch. grad_initial_dtype is FW_NONE where that is not wanted.
// causal_conv1d_backward_parameters: 0 grad_y, 1 x, 2 weight, 3 bias, 4 seq_idx, 5 initial_states,
//   6 partial (args.parts, width + 1, channels) floats, 7 FwCausalArgs;
//   causal_backward_parameters_dispatch, args.parts = causal_parts(). Then
// causal_conv1d_backward_sum_float: 0 partial, 1 grad_weight, 2 grad_bias, 3 FwCausalArgs;
//   causal_backward_sum_dispatch. Gradients that are not wanted have the dtype FW_NONE.
