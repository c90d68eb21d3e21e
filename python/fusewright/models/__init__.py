"""Models over the modules of `fusewright.nn`."""

from fusewright.models.wtconvnext import WTConvNeXt, wtconvnext

__all__ = ["WTConvNeXt", "wtconvnext"]
