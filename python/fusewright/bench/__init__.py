"""Timing of operators beside eager PyTorch, torch.compile and peers; see `fusewright bench`."""

from fusewright.bench.case import Case, Peer

__all__ = ["Case", "Peer"]
