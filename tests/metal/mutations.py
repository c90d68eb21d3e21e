"""Deliberate faults of the .metal files and their headers, each with what should show it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cases import CASES, Options
from emulator.build import KERNELS


class Mutation(NamedTuple):
    """A text of a file and what it becomes; the operator whose cases run, and their dtype."""

    what: str
    file: str
    text: str
    fault: str
    op: str
    cases: list[Options]
    dtype: torch.dtype = torch.float32

    def apply(self, folder: Path) -> Path:
        """A copy of the kernels with the fault in it."""
        room = folder / "kernels"
        room.mkdir()
        for path in KERNELS.iterdir():
            if path.suffix in (".metal", ".h"):
                shutil.copy(path, room)
        whole = (room / self.file).read_text()
        assert whole.count(self.text) == 1, f"{self.file} has {self.text!r} not once"
        (room / self.file).write_text(whole.replace(self.text, self.fault))
        return room


_BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
_WT = [c for c in CASES["wtconv2d"] if c.get("levels") != 9 and c.get("kernel", 5) < 41]
_CONV = CASES["causal_conv1d"]
_STATES = [{"shape": (3, 5, 12), "length": 5, "width": 6, "circular": True}]  # it wraps


def _norm(op: str) -> dict[str, Any]:
    return {"op": op, "cases": CASES[op][:6]}


MUTATIONS = [
    Mutation(
        "swapped bands: LH and HL",
        "haar.h",
        "r.b = 0.5f * (top - bottom);\n        r.c = 0.5f * (left + right);",
        "r.c = 0.5f * (top - bottom);\n        r.b = 0.5f * (left + right);",
        "haar2d",
        CASES["haar2d"],
    ),
    Mutation(
        "missing bounds check: the last column of an odd image",
        "haar.h",
        "if (right) to[1] = from_acc<T>(v.b);",
        "to[1] = from_acc<T>(v.b);",
        "ihaar2d",
        CASES["ihaar2d"],
    ),
    Mutation(
        "wrong index: rows of the bands as far apart as those of the image",
        "haar.h",
        "+ i * w + j;\n        to[0]",
        "+ i * args.width + j;\n        to[0]",
        "haar2d",
        CASES["haar2d"],
    ),
    Mutation(
        "replicated edge in place of zero padding",
        "wtconv.h",
        "if (y < -y0 || y >= height || x < -x0 || x >= width) return 0.0f;",
        "if (y < -y0 || y > height || x < -x0 || x > width) return 0.0f;\n"
        "        y = y == height ? y - 1 : y, x = x == width ? x - 1 : x;",
        "wtconv2d",
        _WT,
    ),
    Mutation(
        "missing barrier: filters read the region while it is loaded",
        "wtconv.h",
        "from.at(place / l.row - args.halo_h, place % l.row - args.halo_w);\n    }\n    "
        + _BARRIER,
        "from.at(place / l.row - args.halo_h, place % l.row - args.halo_w);\n    }",
        "wtconv2d",
        _WT,
    ),
    Mutation(
        "missing barrier: the next region is loaded while this one is read",
        "wtconv_backward.h",
        _BARRIER + "  // the region before has been read",
        "",
        "wtconv2d",
        [{"shape": (5, 513, 6, 6), "levels": 0, "kernel": 3}],
    ),
    Mutation(
        "wrong flip: the input gradient with unturned filters",
        "wtconv_forward.h",
        "args.flipped ? taps - 1 - t : t",
        "t",
        "wtconv2d",
        _WT,
    ),
    Mutation(
        "an unscaled bias",
        "wtconv_forward.h",
        "return load_any(base_bias, args.base_bias_dtype, channel) *\n"
        "               load_any(base_scale, args.base_scale_dtype, channel);",
        "return load_any(base_bias, args.base_bias_dtype, channel);",
        "wtconv2d",
        _WT,
    ),
    Mutation(
        "uninitialised sums: the first part is added to what was there",
        "wtconv_backward.h",
        "const float sum = simd_sum(sums.gradient);\n                device float* place = "
        "to + filters * taps;\n                if (lane == 0) *place = unit == begin ? sum : "
        "*place + sum;",
        "const float sum = simd_sum(sums.gradient);\n                device float* place = "
        "to + filters * taps;\n                if (lane == 0) *place = *place + sum;",
        "wtconv2d",
        _WT,
    ),
    Mutation(
        "wrong dtype: half tensors read as floats",
        "dtype.h",
        'FW_KERNEL(name "_half", function, half)',
        'FW_KERNEL(name "_half", function, float)',
        "causal_conv1d",
        _CONV[:4],
        torch.float16,
    ),
    Mutation(
        "wrong rounding: bfloat truncated",
        "dtype.h",
        "(bits + 0x7fff + (bits >> 16 & 1)) >> 16",
        "bits >> 16",
        "rms_norm",
        CASES["rms_norm"][:4],
        torch.bfloat16,
    ),
    Mutation(
        "negative sequences taken for normal ones",
        "causal_conv1d.h",
        "return id >= 0 && (lag == 0",
        "return (lag == 0",
        "causal_conv1d",
        _CONV,
    ),
    Mutation(
        "missing barrier in the sum over a threadgroup",
        "causal_conv1d.metal",
        "        " + _BARRIER + "\n        if (row >= half_rows) continue;",
        "        if (row >= half_rows) continue;",
        "causal_conv1d",
        _CONV[:4],
    ),
    Mutation(
        "divergent barrier: threads that have nothing left to add leave the loop",
        "causal_conv1d.metal",
        "if (row >= half_rows) continue;",
        "if (row >= half_rows) break;",
        "causal_conv1d",
        _CONV[:4],
    ),
    Mutation(
        "missing bounds check: taps beyond the width",
        "causal_conv1d.metal",
        "if (first + k < args.width) to[",
        "to[",
        "causal_conv1d",
        [{"width": 5, "shape": (2, 1, 9)}, {"width": 3, "shape": (2, 1, 9)}],
    ),
    Mutation(
        "wrong index: a circular state that does not wrap",
        "causal_conv1d_update.metal",
        "(start + t) % args.length",
        "(start + t)",
        "causal_conv1d_update",
        _STATES,
    ),
    Mutation(
        "states of one sequence that reach into the one before",
        "causal_conv1d_varlen_states.metal",
        "if (wrong || row < begin) {",
        "if (wrong || row < 0) {",
        "causal_conv1d_varlen_states",
        CASES["causal_conv1d_varlen_states"],
    ),
    Mutation(
        "missing barrier: a sum's scratch is written while the last one is read",
        "norm.h",
        _BARRIER + "  // the sum before has been read",
        "",
        "layer_norm",
        [{"shape": (4, 700)}],
    ),
    Mutation(
        "a variance that forgets what the mean lost",
        "norm.h",
        "((kept[k] - mean) - lost) * rstd",
        "(kept[k] + mean) * rstd",
        **_norm("layer_norm"),
    ),
    Mutation(
        "elements beyond the registers forgotten",
        "norm.h",
        "i += step) {\n        const float v = io.first(args, row, i);",
        "i += 2 * step) {\n        const float v = io.first(args, row, i);",
        "rms_norm",
        [{"shape": (2, 17000)}],
    ),
]
