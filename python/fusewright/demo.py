"""`fusewright demo`: the same training run with plain PyTorch modules and with fusewright."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from fusewright.models import wtconvnext

BATCH = 32
SIZE = 64  # the digits are 8 x 8 and are upscaled
WARM_UP = 3  # steps that are not timed
LEARNING_RATE = 2e-3


@dataclass
class Run:
    """One training run: the loss and the seconds of every step, and the accuracy at its end."""

    name: str
    losses: list[float]
    seconds: list[float]
    accuracy: float = 0.0

    @property
    def step_ms(self) -> float:
        """The median step, without the first ones."""
        return 1e3 * median(self.seconds[WARM_UP:] or self.seconds)


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 64, 64) and labels for training and for testing, 4 to 1."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    split = len(order) * 4 // 5
    train, test = order[:split], order[split:]
    return images[train], labels[train], images[test], labels[test]


def train(
    name: str, fused: bool, steps: int, seed: int, data: tuple[Tensor, ...], progress: Progress
) -> Run:
    """Train from the weights and through the batches that the seed gives."""
    images, labels, test_images, test_labels = data
    torch.manual_seed(seed)
    model = wtconvnext("pico", fused=fused, num_classes=10, in_chans=1)
    with torch.no_grad():
        stages: Any = model.stages
        for block in (block for stage in stages for block in stage.blocks):
            block.gamma.fill_(0.1)  # the published 1e-6 is for runs of many thousand steps
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    batches = torch.Generator().manual_seed(seed)
    run = Run(name, [], [])
    task = progress.add_task(name, total=steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (BATCH,), generator=batches)
        start = time.perf_counter()
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.seconds.append(time.perf_counter() - start)
        run.losses.append(loss.item())
        progress.update(task, advance=1)
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).argmax(1) for part in test_images.split(120)])
    run.accuracy = float((found == test_labels).float().mean())
    return run


def table_of(plain: Run, fused: Run) -> Table:
    """What the two runs show."""
    table = Table(title=f"WTConvNeXt pico, {len(plain.losses)} steps of {BATCH} digits")
    for column in ("", "plain PyTorch", "fusewright", ""):
        table.add_column(column, justify="left" if not column else "right")
    speed_up = f"{plain.step_ms / fused.step_ms:.2f}x"
    table.add_row("step, median", f"{plain.step_ms:.0f} ms", f"{fused.step_ms:.0f} ms", speed_up)
    table.add_row("test accuracy", f"{plain.accuracy:.1%}", f"{fused.accuracy:.1%}", "")
    difference = max(abs(a - b) for a, b in zip(plain.losses, fused.losses, strict=True))
    table.add_row("largest difference of the losses", "", "", f"{difference:.1e}")
    table.add_row("last loss", f"{plain.losses[-1]:.4f}", f"{fused.losses[-1]:.4f}", "")
    return table


def draw(plain: Run, fused: Run, out: Path) -> None:
    """Both loss curves and both step times, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (curves, times) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for run, style in ((plain, "-"), (fused, "--")):
        curves.plot(run.losses, style, label=run.name)
        times.plot([1e3 * s for s in run.seconds], style, label=f"{run.name}: {run.step_ms:.0f} ms")
    curves.set(xlabel="step", ylabel="cross entropy", title="training loss")
    times.set(xlabel="step", ylabel="ms", ylim=(0, None), title="time of a step")
    for axes in (curves, times):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out, dpi=120)
    plt.close(figure)


def run(steps: int, seed: int, out: Path, console: Console) -> tuple[Run, Run]:
    """Train twice, print the table and write the picture.

    Args:
        steps: training steps of each run, at least 1.
        seed: of weights and data order, the same for both.
        out: the picture.
        console: where the progress and the table go.

    Returns:
        The plain run and the fused one.
    """
    data = digits(seed)
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        plain = train("plain PyTorch", False, steps, seed, data, progress)
        fused = train("fusewright", True, steps, seed, data, progress)
    console.print(table_of(plain, fused))
    draw(plain, fused, out)
    console.print(f"wrote {out}")
    return plain, fused
