"""Timing of operators beside eager PyTorch and torch.compile; see `Case` and `fusewright bench`."""

from fusewright.bench.case import Case

__all__ = ["Case"]
