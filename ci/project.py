"""What scripts ask of pyproject.toml.

    python ci/project.py version
    python ci/project.py requirements EXTRA...    # for pip install -r

An extra's requirements alone: pip would build and install the project with them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib

PROJECT = tomllib.loads(
    (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
)["project"]


def main() -> None:
    """Command line."""
    match sys.argv[1:]:
        case ["version"]:
            print(PROJECT["version"])
        case ["requirements", *extras] if extras:
            for extra in extras:
                print(*PROJECT["optional-dependencies"][extra], sep="\n")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
