"""Prints the CSV of `fusewright bench` as the tables of docs/performance.md.

    python tools/bench_table.py bench-results/cuda.csv [more.csv ...]

Times in ms; a case has a line for the forward and one for forward and backward.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fusewright.bench.report import format_ms, short_direction, speedup
from fusewright.bench.rows import COMPILE, EAGER, FUSEWRIGHT, Row, is_rival, read_csv


def cell(group: Mapping[str, Row], provider: str) -> str:
    return format_ms(group[provider].p50_ms) if provider in group else ""


def host(group: Mapping[str, Row]) -> str:
    """Ours against the best of those who are neither eager nor compiled, in µs."""
    peers = [g.host_ms for p, g in group.items() if is_rival(p) and p not in (EAGER, COMPILE)]
    ours = f"{1e3 * group[FUSEWRIGHT].host_ms:.0f}"
    return f"{ours} / {1e3 * min(peers):.0f}" if peers else ours


def memory(group: Mapping[str, Row]) -> str:
    return " / ".join(f"{group[p].peak_mb:.3g}" for p in (FUSEWRIGHT, EAGER) if p in group)


def main(paths: Sequence[str]) -> None:
    rows = [row for path in paths for row in read_csv(Path(path))]
    first = rows[0]
    print(f"{first.device}, torch {first.torch}, fusewright {first.fusewright} at {first.commit}.")
    for op in dict.fromkeys(row.op for row in rows):
        groups: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in rows:
            if row.op == op:
                groups.setdefault(row.key[:-1], {})[row.provider] = row
        providers = list(dict.fromkeys(p for group in groups.values() for p in group))
        others = [p for p in providers if p != FUSEWRIGHT]
        queued = any(group[FUSEWRIGHT].host_ms for group in groups.values())  # to a GPU
        titles = ["shape", "dtype", "pass", "ours", *others, "floor", "speed-up"]
        titles += ["host µs", "MB"] if queued else ["MB"]
        print(f"\n### {op}\n")
        print("|", " | ".join(titles), "|")
        print("|" + "---|" * len(titles))
        for (_, direction, shape, dtype), group in groups.items():
            ours, factor = group[FUSEWRIGHT], speedup(group)
            cells = [shape, dtype, short_direction(direction), cell(group, FUSEWRIGHT)]
            cells += [cell(group, p) for p in others]
            cells += [format_ms(ours.floor_ms), "" if factor is None else f"{factor:.2f}"]
            cells += [host(group)] if queued else []
            print("|", " | ".join([*cells, memory(group)]), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
