"""A run of the benchmarks: progress while it lasts, tables, one CSV, a PNG an operator."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fusewright.bench import machine, plot, report, suite
from fusewright.bench.case import Case
from fusewright.bench.contest import Options, Outcome, hold
from fusewright.bench.rows import FUSEWRIGHT, Row, read_csv, write_csv

_REDRAW = 0.2  # s


def run(
    *,
    folder: Path,
    ops: Sequence[str],
    dtypes: Sequence[torch.dtype],
    options: Options,
    out: Path,
    quick: bool,
    compare: Path | None,
    console: Console,
) -> bool:
    """Run, print, write `out/<device>.csv` and `out/<op>-<device>.png`.

    Returns:
        Whether every result of fusewright was right.
    """
    old = read_csv(compare) if compare is not None else []
    cases = [
        case
        for file in suite.files(folder, ops)
        for case in suite.cases(file, options.device, dtypes, quick=quick)
    ]
    here = machine.describe(options.device, folder)
    report.print_machine(console, here)
    outcomes: list[Outcome] = []
    missing: dict[str, str] = {}
    for outcome in _outcomes(cases, options, here, console):
        outcomes.append(outcome)
        missing |= outcome.missing
        if outcome.rows:  # a long run that is cut short keeps what it has
            out.mkdir(parents=True, exist_ok=True)
            write_csv(out / f"{options.device.type}.csv", [r for o in outcomes for r in o.rows])
        for provider, fault in outcome.faults.items():
            label = f"{outcome.case.op} {outcome.case.shape} {provider}"
            console.print(f"[red]{escape(label)}: {escape(fault)}", soft_wrap=True)
    rows = [row for outcome in outcomes for row in outcome.rows]
    report.print_tables(console, rows)
    for provider, reason in missing.items():
        console.print(f"[yellow]{escape(provider)} is not installed: {escape(reason)}")
    if rows:
        _draw(out, options.device.type, rows, console)
    if compare is not None:
        report.print_moves(console, old, rows)
    red = [o for o in outcomes if FUSEWRIGHT in o.faults]
    if red:
        console.print(f"[red]{len(red)} of {len(outcomes)} cases are wrong: they have no times")
    return not red


def _outcomes(
    cases: Sequence[Case], options: Options, here: machine.Machine, console: Console
) -> Iterator[Outcome]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # A thread that redraws would be measured, so the bar is drawn between samples.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            label = f"{case.op} {case.shape} {suite.short_name(case.dtype)}"
            last = 0.0

            def step(what: str, label: str = label) -> None:
                nonlocal last
                if time.perf_counter() - last > _REDRAW:
                    progress.update(task, description=escape(f"{label}: {what}"))
                    progress.refresh()
                    last = time.perf_counter()

            try:
                yield hold(case, options, here, step)
            except Exception as error:  # one broken case must not cost the others
                fault = f"{type(error).__name__}: {error}".splitlines()[0]
                yield Outcome(case, faults={FUSEWRIGHT: fault})
            progress.advance(task)


def _draw(out: Path, device: str, rows: Sequence[Row], console: Console) -> None:
    pictures = []
    for op in dict.fromkeys(row.op for row in rows):
        pictures.append(out / f"{op}-{device}.png")
        plot.draw(pictures[-1], [row for row in rows if row.op == op])
    names = ", ".join(str(p) for p in [out / f"{device}.csv", *pictures])
    console.print(f"wrote {escape(names)}", soft_wrap=True)
