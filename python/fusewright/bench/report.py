"""The tables of a run, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from fusewright.bench.machine import Machine
from fusewright.bench.rows import COMPILE, EAGER, FUSEWRIGHT, Row, is_rival, moves


def print_machine(console: Console, here: Machine) -> None:
    """One line that says where."""
    console.print(
        f"{here.device}, {here.isa}, {here.threads} threads; "
        f"fusewright {here.fusewright}, torch {here.torch}",
        soft_wrap=True,
        highlight=False,
    )


def print_tables(console: Console, rows: Sequence[Row]) -> None:
    """A table an operator: medians in ms, the speed-up over the fastest of the others."""
    for op in dict.fromkeys(row.op for row in rows):
        chosen = [row for row in rows if row.op == op]
        peers = [
            p
            for p in dict.fromkeys(row.provider for row in chosen)
            if p not in (FUSEWRIGHT, EAGER, COMPILE)
        ]
        table = Table(title=op, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("shape", overflow="fold")
        for name in ("dtype", "pass"):
            table.add_column(name, no_wrap=True)
        for name in (
            *(f"{p}\nms" for p in (FUSEWRIGHT, EAGER, COMPILE, *peers, "floor")),
            "speed-up",
            "time /\nfloor",
            "MB\nours, eager",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for group in _groups(chosen):
            table.add_row(*_cells(group, peers))
        console.print(table)
    if rows:
        console.print(
            "ms: median of interleaved samples. speed-up: over the fastest right rival. "
            "floor: the larger of copying the bytes and of the FLOP at the rate of a matrix "
            "product. MB: peak memory beyond the inputs.",
            highlight=False,
        )


def speedup(group: dict[str, Row]) -> float | None:
    """How many times faster than the fastest right rival; None without both sides."""
    rivals = [row.p50_ms for provider, row in group.items() if is_rival(provider)]
    if not rivals or FUSEWRIGHT not in group:
        return None
    return min(rivals) / group[FUSEWRIGHT].p50_ms


def print_moves(console: Console, old: Sequence[Row], new: Sequence[Row]) -> None:
    """What moved beyond noise since an earlier run."""
    moved = moves(old, new)
    shared = len({row.key for row in old} & {row.key for row in new})
    console.print(f"{len(moved)} of {shared} rows moved beyond the noise of both runs")
    if not moved:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("op", "shape", "dtype", "pass", "provider"):
        table.add_column(name, overflow="fold")
    for name in ("old ms", "new ms", "new / old", "floor's"):
        table.add_column(name, justify="right")
    for move in sorted(moved, key=lambda m: m.ratio):
        row = move.new
        style = "green" if move.ratio < 1 else "red"
        table.add_row(
            *(row.op, row.shape, row.dtype, short_direction(row.direction), row.provider),
            *(format_ms(move.old.p50_ms), format_ms(row.p50_ms)),
            *(f"[{style}]{move.ratio:.2f}", f"{move.floor_ratio:.2f}"),
        )
    console.print(table)


def _groups(rows: Sequence[Row]) -> list[dict[str, Row]]:
    """Rows of the same case and direction, by provider."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(row.key[:-1], {})[row.provider] = row
    return list(groups.values())


def _cells(group: dict[str, Row], peers: Sequence[str]) -> list[str]:
    ours = group[FUSEWRIGHT]
    times = [
        format_ms(group[p].p50_ms) if p in group else "-"
        for p in (FUSEWRIGHT, EAGER, COMPILE, *peers)
    ]
    factor = speedup(group)
    memory = [f"{group[p].peak_mb:.3g}" for p in (FUSEWRIGHT, EAGER) if p in group]
    return [
        *(ours.shape, ours.dtype, short_direction(ours.direction)),
        *times,
        format_ms(ours.floor_ms),
        "-" if factor is None else f"[{'green' if factor >= 1 else 'red'}]{factor:.2f}x",
        f"{ours.p50_ms / ours.floor_ms:.2f}",
        ", ".join(memory),
    ]


def short_direction(direction: str) -> str:
    """`fwd` or `fwd+bwd`."""
    return direction.replace("forward", "fwd").replace("backward", "bwd")


def format_ms(value: float) -> str:
    """Three digits, never an exponent."""
    digits = 4 if value < 0.1 else 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"
