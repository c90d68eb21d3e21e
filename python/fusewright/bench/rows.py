"""The rows of the results, their CSV, and what moved between two of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from fusewright.bench.timing import Times
from fusewright.errors import fail

FUSEWRIGHT, EAGER, COMPILE = "fusewright", "eager", "compile"
WRONG = "(wrong)"  # after the name of a peer that is timed although its result is off

# Less than this is no change, however narrow the percentiles are.
_LEAST_MOVE = 0.05


@dataclass(frozen=True)
class Row:
    """One provider of one case in one direction; the columns of the CSV.

    Attributes:
        op, shape, dtype: of the case.
        backend: which backend of fusewright ran, empty for other providers.
        direction: 'forward' or 'forward+backward'; the column `pass`.
        provider: 'fusewright', 'fusewright triton' and so on where another backend is forced,
            'eager', 'compile' or the name of a peer, with '(wrong)' behind it where its result is.
        p20_ms, p50_ms, p80_ms: percentiles of the time of a call.
        host_ms: on a GPU the time until a call returns, see `timing.host_ms`; elsewhere 0.
        peak_mb: see `memory.peak_mb`.
        floor_ms: what the bytes and FLOP below cost at least on this machine, in this run.
        bytes, flops: of the case and the direction.
        device, threads, isa: where it ran; `isa` is what torch uses on a CPU, sm_XY on a GPU.
        torch, fusewright, commit: versions.
    """

    op: str
    backend: str
    direction: str
    shape: str
    dtype: str
    provider: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    host_ms: float
    peak_mb: float
    floor_ms: float
    bytes: int
    flops: int
    device: str
    threads: int
    isa: str
    torch: str
    fusewright: str
    commit: str

    @property
    def key(self) -> tuple[str, ...]:
        """What the same row has in common in two runs."""
        return (self.op, self.direction, self.shape, self.dtype, self.provider)

    @property
    def times(self) -> Times:
        """The percentiles together."""
        return Times(self.p20_ms, self.p50_ms, self.p80_ms)


_COLUMNS = {f.name: "pass" if f.name == "direction" else f.name for f in fields(Row)}
_TYPES = {"int": int, "float": float, "str": str}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line a row, times and memory to four digits."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS.values())
        for row in rows:
            values = [getattr(row, name) for name in _COLUMNS]
            writer.writerow([f"{v:.4g}" if isinstance(v, float) else v for v in values])


def read_csv(path: Path) -> list[Row]:
    """The rows of an earlier run.

    Raises:
        ArgumentError: the file lacks a column.
    """
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    missing = [c for c in _COLUMNS.values() if lines and c not in lines[0]]
    if missing:
        fail("bench", f"columns of {path}", f"without {', '.join(missing)}", "be those of a run")
    return [
        Row(**{f.name: _TYPES[str(f.type)](line[_COLUMNS[f.name]]) for f in fields(Row)})
        for line in lines
    ]


def is_rival(provider: str) -> bool:
    """Whether a speed-up counts it: someone else's, and right."""
    return provider.split(maxsplit=1)[0] != FUSEWRIGHT and not provider.endswith(WRONG)


@dataclass(frozen=True)
class Move:
    """A row whose time moved beyond the noise of both runs."""

    old: Row
    new: Row

    @property
    def ratio(self) -> float:
        """New time / old time."""
        return self.new.p50_ms / self.old.p50_ms

    @property
    def floor_ratio(self) -> float:
        """The same of the floor: far from 1, and the machine moved, not the code."""
        return self.new.floor_ms / self.old.floor_ms


def moves(old: Sequence[Row], new: Sequence[Row]) -> list[Move]:
    """The rows in both runs whose 20–80 % ranges do not overlap and whose medians differ by 5 %."""
    before = {row.key: row for row in old}
    pairs = [Move(before[row.key], row) for row in new if row.key in before]
    return [move for move in pairs if _moved(move)]


def _moved(move: Move) -> bool:
    old, new = move.old.times, move.new.times
    apart = new.p20 > old.p80 or new.p80 < old.p20
    return apart and abs(move.ratio - 1) > _LEAST_MOVE
