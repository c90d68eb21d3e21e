"""A picture of one operator: what every provider achieves against size, and the floor."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from fusewright.bench.rows import COMPILE, EAGER, FUSEWRIGHT, Row

# Blue, vermilion and green of Okabe and Ito, told apart by every reader; the rest are peers.
_COLORS = {FUSEWRIGHT: "#0072B2", EAGER: "#D55E00", COMPILE: "#009E73"}
_PEERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Write a PNG: one panel a direction and dtype, sizes from small to large, log scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row.direction, row.dtype) for row in rows))
    directions = list(dict.fromkeys(d for d, _ in panels))
    dtypes = list(dict.fromkeys(t for _, t in panels))
    widest = max(len({r.shape for r in rows if r.dtype == t}) for t in dtypes)
    size = (max(4.5, 1.0 * widest + 2.2) * len(dtypes) + 1.8, 4.3 * len(directions) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(directions), len(dtypes), squeeze=False)
    colors = _colors(rows)
    for i, direction in enumerate(directions):
        for j, dtype in enumerate(dtypes):
            chosen = [r for r in rows if (r.direction, r.dtype) == (direction, dtype)]
            if chosen:
                _panel(axes[i][j], chosen, colors)
                axes[i][j].set_title(f"{direction}, {dtype}")
            else:
                axes[i][j].axis("off")
    labels: dict[str, Any] = {}
    for panel in axes.flat:
        handles, names = panel.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside right center", frameon=False)
    first = rows[0]
    figure.suptitle(f"{first.op} on {first.device}, {first.isa}, {first.threads} threads")
    figure.savefig(path, dpi=120)


def _panel(axes: Any, rows: Sequence[Row], colors: dict[str, str]) -> None:
    by_arithmetic = _bound_by_arithmetic(rows)
    work = {r.shape: r.flops if by_arithmetic else r.bytes for r in rows}
    shapes = sorted(work, key=lambda shape: work[shape])
    place = {shape: x for x, shape in enumerate(shapes)}
    for number, (provider, color) in enumerate(colors.items()):
        line = sorted(
            ((place[r.shape], r) for r in rows if r.provider == provider), key=itemgetter(0)
        )
        if not line:
            continue
        slow, median, fast = (
            [work[r.shape] / (1e6 * ms(r)) for _, r in line]
            for ms in (attrgetter("p80_ms"), attrgetter("p50_ms"), attrgetter("p20_ms"))
        )
        axes.errorbar(
            [x for x, _ in line],
            median,
            yerr=[
                [m - s for m, s in zip(median, slow, strict=True)],
                [f - m for m, f in zip(median, fast, strict=True)],
            ],
            color=color,
            marker=_MARKERS[number % len(_MARKERS)],
            capsize=3,
            label=provider,
        )
    floors = {r.shape: work[r.shape] / (1e6 * r.floor_ms) for r in rows}
    axes.plot(
        range(len(shapes)),
        [floors[s] for s in shapes],
        "--",
        color="0.4",
        label="floor (best possible)",
    )
    axes.set_yscale("log")
    axes.set_ylabel("GFLOP/s" if by_arithmetic else "GB/s")
    axes.set_xticks(range(len(shapes)))
    unit = "MFLOP" if by_arithmetic else "MB"
    axes.set_xticklabels(
        [f"{shape}\n{work[shape] / 1e6:.3g} {unit}" for shape in shapes],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        fontsize=8,
    )
    axes.set_xlim(-0.4, len(shapes) - 0.6)
    axes.grid(axis="y", which="both", color="0.92")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _colors(rows: Sequence[Row]) -> dict[str, str]:
    peers = iter(_PEERS * 4)
    providers = dict.fromkeys(r.provider for r in rows)
    return {p: _COLORS[p] if p in _COLORS else next(peers) for p in providers}


def _bound_by_arithmetic(rows: Sequence[Row]) -> bool:
    """Whether FLOP/s say more than GB/s: at 10 FLOP a byte, memory rarely binds."""
    return sum(r.flops for r in rows) > 10 * sum(r.bytes for r in rows)
