"""A fresh interpreter, for what can't be tried inside the tests' own process."""

from __future__ import annotations

import os
import subprocess
import sys


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with these environment variables added; output and exit status as text."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def python(code: str, **environment: str) -> str:
    """What `code` prints; it must succeed."""
    result = run(code, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
