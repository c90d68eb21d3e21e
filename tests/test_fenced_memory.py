"""The CPU kernels touch nothing beside their tensors: here, that would end the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fresh import python

FENCED = """
import ctypes, mmap, sys
sys.path.insert(0, {tests!r})
import torch
from check import check_values, map_tensors
from fusewright import ops

PAGE, libc = mmap.PAGESIZE, ctypes.CDLL(None)

def fenced(tensor, at_end):
    "A copy that begins, or ends, where its pages do."
    if tensor.numel() == 0:
        return tensor
    size = tensor.numel() * tensor.element_size()
    room = -(-size // PAGE) * PAGE
    area = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for page in (address, address + PAGE + room):
        assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
    offset = PAGE + (room - size if at_end else 0)
    copy = torch.frombuffer(area, dtype=tensor.dtype, offset=offset, count=tensor.numel())
    return copy.view(tensor.shape).copy_(tensor)

CASES = [(name, {{}}) for name in ops.load_all()]
# rows that are filtered where they lie, at both ends of x as far as that goes
CASES += [("wtconv2d", dict(shape=(1, 2, h, 64), kernel=5, levels=2)) for h in (32, 34)]
for name, options in CASES:
    op = ops.load_all()[name]
    for dtype in (torch.float32, torch.bfloat16):
        for at_end in (False, True):
            print(name, options, dtype, at_end, file=sys.stderr)
            args = op.sample(dtype=dtype, **options)
            check_values(op, map_tensors(lambda t: fenced(t, at_end), args), "cpu")
print("untouched")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is fenced by Linux's mprotect")
def test_nothing_beside_the_tensors_is_touched() -> None:
    assert python(FENCED.format(tests=str(Path(__file__).parent))) == "untouched"
