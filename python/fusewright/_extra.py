"""What the command line needs beyond torch comes with extras; a missing one is told in a line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside this block what comes with an extra of the package.

    Args:
        name: the extra, as in `pip install 'fusewright[name]'`.

    Raises:
        SystemExit: a package is missing; says which, and how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "fusewright":
            raise
        raise SystemExit(
            f"fusewright: {error.name} is not installed: pip install 'fusewright[{name}]'"
        ) from None
