"""Warnings that point at the user's line."""

from __future__ import annotations

import os
import sys
import warnings

import torch

_INSIDE = tuple(os.path.dirname(file) + os.sep for file in (__file__, torch.__file__))


def warn_user(text: str) -> None:
    """Warn at the line that led here from outside of fusewright and torch.

    An operator may have been called by its function, by a module or by a model of modules.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)
