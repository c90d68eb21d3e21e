"""What this project bans and no linter knows, over the files of the repository or those given.

- A C++ check without a message: the user would read a condition, not what is wrong.
- A swallowed ImportError: a backend that is broken must be recorded with its reason.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NATIVE = {".cpp", ".h", ".cu", ".cuh", ".metal", ".mm"}
# The macros, and how many of their arguments come before the message.
CHECKS = {"TORCH_CHECK": 1, "STD_TORCH_CHECK": 1, "FW_CHECK": 2}
CALL = re.compile(r"(?<!#define )\b(" + "|".join(CHECKS) + r")\s*\(")
IMPORT_ERRORS = {"ImportError", "ModuleNotFoundError"}


def count_arguments(text: str) -> int:
    """How many arguments a call has, given what follows its opening parenthesis."""
    depth, commas = 1, 0
    for token in re.finditer(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[(\[{)\]},]', text):
        depth += token[0] in "([{"
        depth -= token[0] in ")]}"
        commas += token[0] == "," and depth == 1
        if depth == 0:
            break
    return commas + 1


def checks_without_message(text: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for every check that says nothing when it fails."""
    for call in CALL.finditer(text):
        if count_arguments(text[call.end() :]) <= CHECKS[call[1]]:
            yield text.count("\n", 0, call.start()) + 1, f"{call[1]} without a message"


def swallowed_imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and complaint for every ImportError that is caught and forgotten."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            names, silent = node.type, all(isinstance(s, ast.Pass) for s in node.body)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            names, silent = node, True
        else:
            continue
        caught = {n.id for n in ast.walk(names) if isinstance(n, ast.Name)} & IMPORT_ERRORS
        if silent and caught:
            yield node.lineno, f"{caught.pop()} is swallowed"


def complaints(path: Path) -> Iterator[str]:
    """Every complaint about one file."""
    text = path.read_text()
    found: Iterator[tuple[int, str]] = iter(())
    if path.suffix in NATIVE:
        found = checks_without_message(text)
    elif path.suffix == ".py":
        found = swallowed_imports(text)
    for line, complaint in found:
        yield f"{path}:{line}: {complaint}"


def main() -> int:
    """Command line: the files to check, all tracked ones where none are named."""
    names = sys.argv[1:]
    if not names:
        listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
        names = listed.stdout.splitlines()
    found = [text for name in names if Path(name).is_file() for text in complaints(Path(name))]
    for text in found:
        print(text)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
