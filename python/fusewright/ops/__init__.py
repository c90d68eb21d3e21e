"""One file an operator: its `Op` (schema, reference, fakes, support) and its public function."""

from __future__ import annotations

import importlib
import pkgutil

from fusewright._op import OPS, Op

__all__ = ["OPS", "Op", "load_all", "names"]


def names() -> list[str]:
    """The name of every operator, without importing any."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load_all() -> dict[str, Op]:
    """Register every operator, as a program loaded by `torch.export.load` needs.

    Returns:
        Every `Op` by its name.
    """
    for name in names():
        importlib.import_module(f"{__name__}.{name}")
    return dict(OPS)
