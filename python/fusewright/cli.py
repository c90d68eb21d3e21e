"""The command `fusewright`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fusewright._extra import extra

with extra("cli"):
    import rich.console
    import typer

app = typer.Typer(
    help="Fused kernels for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _console() -> rich.console.Console:
    """As wide as the terminal; a file or a pipe gets lines that hold a table."""
    console = rich.console.Console()
    return console if console.is_terminal else rich.console.Console(width=120)


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show versions, backends, devices, and the backend each operator takes.

    Exits with 1 if a backend that should work does not.
    """
    from fusewright import doctor as module

    report = module.examine()
    if json:
        print(module.to_json(report))
    else:
        module.render(report, _console())
    if not report.healthy:
        raise typer.Exit(1)


@app.command()
def bench(
    ops: Annotated[
        list[str] | None, typer.Argument(metavar="[OP]...", help="Operators; all by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    path: Annotated[Path, typer.Option(help="The folder of benchmark files.")] = Path("benchmarks"),
    out: Annotated[Path, typer.Option(help="Where to write.")] = Path("bench-results"),
    passes: Annotated[str, typer.Option(help="forward, backward, or both.")] = "forward,backward",
    dtype: Annotated[str, typer.Option(help="Such as fp32,bf16; all by default.")] = "",
    compare: Annotated[
        Path | None, typer.Option(help="The CSV of an earlier run.", exists=True, dir_okay=False)
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time for the samples of one row.")] = 2.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="The smallest case an operator and dtype, few samples.")
    ] = False,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Time torch.compile, too.")
    ] = True,
) -> None:
    """Time operators beside eager PyTorch and torch.compile, after checking their results.

    Exits with 1 if a result of fusewright is wrong; such a case has no times.
    """
    with extra("bench"):
        import matplotlib  # noqa: F401  only to know before a long run that it is there

    from fusewright.bench import session, suite
    from fusewright.bench.contest import Options, parse_passes
    from fusewright.errors import ArgumentError

    try:
        options = Options(
            device=suite.parse_device(device),
            directions=parse_passes(passes),
            seconds=min(seconds, 0.3) if quick else seconds,
            compile=with_compile,
        )
        right = session.run(
            folder=path,
            ops=ops or (),
            dtypes=suite.parse_dtypes(dtype),
            options=options,
            out=out,
            quick=quick,
            compare=compare,
            console=_console(),
        )
    except ArgumentError as error:
        raise SystemExit(str(error)) from None
    if not right:
        raise typer.Exit(1)


@app.command()
def demo(
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 150,
    seed: Annotated[int, typer.Option(help="Of weights and data order.")] = 0,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("fusewright-demo.png"),
) -> None:
    """Train a small WTConvNeXt on handwritten digits, with plain PyTorch and with fusewright."""
    with extra("demo"):
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

    from fusewright import demo as module

    if not out.absolute().parent.is_dir():  # known before the training, not after
        raise SystemExit(f"[demo] --out is {str(out)!r}, must be in a folder that exists")
    module.run(steps=steps, seed=seed, out=out, console=_console())


def main() -> None:
    """The entry point."""
    app()
