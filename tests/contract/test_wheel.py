"""What a gateway gets: the built wheel holds the package with its data, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """Build from a copy of the whole tree: tests, hooks and documents are there to be left out."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_it_holds_one_package(wheel: zipfile.ZipFile) -> None:
    """The only thing importable is bf_plugin: no tests, no hooks, no conftest."""
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"bf_plugin"}
    assert len(tops) == 2


def test_it_holds_all_of_the_package(wheel: zipfile.ZipFile) -> None:
    """Every file of the package, the data that is read at run time included."""
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "bf_plugin").rglob("*")
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
    }
    assert {"bf_plugin/py.typed", "bf_plugin/browser/handler.js", "bf_plugin/demo/page/index.html"} <= files
    assert {name for name in wheel.namelist() if name.startswith("bf_plugin/")} == files


def test_its_metadata_is_complete(wheel: zipfile.ZipFile) -> None:
    """Command, engine, messengers and pytest plugin are declared; README and licence are there."""
    (folder,) = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entries = ConfigParser()
    entries.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert list(entries["console_scripts"]) == ["bf-plugin"]
    assert list(entries["bf_plugin.engines"]) == ["openai"]
    assert list(entries["bf_plugin.messengers"]) == ["http", "https"]
    assert dict(entries["pytest11"]) == {"bf_plugin": "bf_plugin.testing.pytest_plugin"}
    metadata = message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert metadata["License-Expression"] == "MIT"
    assert {"testing", "postgres"} <= set(metadata.get_all("Provides-Extra") or ())
    assert "# bf_plugin" in str(metadata.get_payload())
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
