"""Wavelet convolution in one dimension in Triton."""

from __future__ import annotations

from fusewright.backends.triton import _wtconv

wtconv1d = _wtconv.forward
wtconv1d_backward = _wtconv.backward
