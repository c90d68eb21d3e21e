"""torch.nn.Module's over the operators, with the state_dicts of what they replace."""

from fusewright.nn.causal_conv1d import CausalConv1d
from fusewright.nn.linear_act import LinearAct
from fusewright.nn.norm import LayerNorm, RMSNorm
from fusewright.nn.wtconv import WTConv1d, WTConv2d

__all__ = ["CausalConv1d", "LayerNorm", "LinearAct", "RMSNorm", "WTConv1d", "WTConv2d"]
