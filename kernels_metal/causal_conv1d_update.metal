// causal_conv1d_update: decoding steps on a state that is changed in place.
//
// causal_conv1d_update_forward: 0 x, 1 conv_state, 2 weight, 3 bias, 4 cache_seqlens,
//   5 conv_state_indices, 6 y, 7 FwCausalUpdateArgs; causal_update_dispatch.
//   An index that is not below args.states gives NaN and changes no state.
