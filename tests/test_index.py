"""`ci/index`: pip installs from what it writes, and refuses a file that is not the one hashed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("packaging", reason="ci/index needs the package packaging")

ROOT = Path(__file__).resolve().parents[1]


def toy_wheel(folder: Path, name: str, version: str, python: str = ">=3.10", **files: str) -> Path:
    """A wheel of one module, and of the metadata that pip wants."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    contents = {
        f"{module}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"{metadata}Requires-Python: {python}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **files,
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def index(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "ci" / "index", folder], capture_output=True, text=True, check=False
    )


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
        """Say nothing of each request."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with an index of two projects, and where a server on loopback shows it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    toy_wheel(folder, "fusewright-toy", "1.0")
    toy_wheel(folder, "fusewright-toy", "1.1")
    toy_wheel(folder, "fusewright-toy", "2.0", python=">=99")
    toy_wheel(folder, "another", "3.0")
    result = index(folder)
    assert result.returncode == 0, result.stderr
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/simple/"
    server.shutdown()
    server.server_close()
    thread.join()


def install(url: str, target: Path, requirement: str) -> subprocess.CompletedProcess[str]:
    """What pip says; it sees this index alone."""
    options = ["--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--index-url",
            url,
            *options,
            "--target",
            str(target),
            requirement,
        ],
        env={**environment, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_pip_installs_from_it(served: tuple[Path, str], tmp_path: Path) -> None:
    """The newest version that this Python may have; the name as anyone spells it."""
    _, url = served
    result = install(url, tmp_path / "site", "Fusewright_Toy")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site" / "fusewright_toy.py").read_text() == "version = '1.1'\n"


def test_pip_refuses_another_file(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    toy_wheel(folder, "another", "3.0", **{"evil.py": "print('hello')\n"})
    result = install(url, tmp_path / "site", "another")
    assert result.returncode
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in result.stdout + result.stderr


def test_json_says_the_same(served: tuple[Path, str]) -> None:
    folder, _ = served
    listing = json.loads((folder / "simple" / "index.json").read_text())
    assert listing["projects"] == [{"name": "another"}, {"name": "fusewright-toy"}]
    page = json.loads((folder / "simple" / "fusewright-toy" / "index.json").read_text())
    assert page["meta"] == {"api-version": "1.1"}
    assert page["versions"] == ["1.0", "1.1", "2.0"]
    html = (folder / "simple" / "fusewright-toy" / "index.html").read_text()
    for file in page["files"]:
        content = (folder / file["filename"]).read_bytes()
        assert file["hashes"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["size"] == len(content)
        assert f'href="{file["url"]}#sha256={file["hashes"]["sha256"]}"' in html
    assert page["files"][2]["requires-python"] == ">=99"
    assert 'data-requires-python="&gt;=99"' in html


def test_nothing_to_index(tmp_path: Path) -> None:
    result = index(tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("[index] folder is ")
    assert result.stderr.endswith("must hold wheels or sdists\n")
    assert "must be a folder that exists" in index(tmp_path / "none").stderr
