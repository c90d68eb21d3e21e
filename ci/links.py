"""Every file and heading that a Markdown file of the repository links to exists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)|<img[^>]*\bsrc=\"([^\"]+)\"", re.M)
HEADING = re.compile(r"^#+\s+(.*?)\s*$", re.M)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = (re.sub(r"[`*]", "", title).lower() for title in HEADING.findall(FENCE.sub("", text)))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title)) for title in titles}


def broken(page: Path) -> Iterator[str]:
    """The links of one page that lead nowhere; other sites are not asked."""
    for groups in LINK.findall(FENCE.sub("", page.read_text())):
        target = next(filter(None, groups))
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists():
            yield f"{page}: {target} does not exist"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            yield f"{page}: {target} has no such heading"


def main() -> int:
    """Command line."""
    listed = subprocess.run(["git", "ls-files", "*.md"], check=True, capture_output=True, text=True)
    found = [text for page in listed.stdout.splitlines() for text in broken(Path(page))]
    for text in found:
        print(text)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
