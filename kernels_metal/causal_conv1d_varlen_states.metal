// causal_conv1d_varlen_states: the last inputs of every sequence of a packed batch, and its
// gradient.
//
// causal_conv1d_varlen_states_forward: 0 x, 1 cu_seqlens, 2 y, 3 FwVarlenArgs;
//   varlen_forward_dispatch. A sequence whose bounds decrease or leave x has states of NaN.
// causal_conv1d_varlen_states_backward: 0 grad_y, 1 cu_seqlens, 2 grad_x, 3 FwVarlenArgs;
//   varlen_backward_dispatch.
