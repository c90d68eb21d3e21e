"""Wavelet convolution in two dimensions in Triton."""

from __future__ import annotations

from fusewright.backends.triton import _wtconv

wtconv2d = _wtconv.forward
wtconv2d_backward = _wtconv.backward
