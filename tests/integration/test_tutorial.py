"""The tutorial of docs/writing-hooks.md, as its reader goes through it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-hooks.md").read_text(encoding="utf-8")
TUTORIAL = PAGE[PAGE.index("## From nothing") : PAGE.index("## The life of a run")]
BLOCK = re.compile(r"(?:`(\S+)`:\n\n)?^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UV = Path(sys.executable).with_name("uv")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheel of the core, which stands for the index."""
    shutil.copytree(ROOT, tmp_path / "core", ignore=LEFT_OUT)
    subprocess.run([UV, "build", "-q", "--wheel", "--out-dir", tmp_path / "wheels", tmp_path / "core"], check=True)
    return tmp_path / "wheels"


@pytest.mark.timeout(600)  # environments are made
def test_the_tutorial_works(tmp_path: Path, wheels: Path) -> None:
    """Its commands and files, one after the other, in an empty folder; pip's work is done by uv, which is faster."""
    folder, said = tmp_path / "tutorial", []
    folder.mkdir()
    for path, language, content in BLOCK.findall(TUTORIAL):
        if language == "python":
            (folder / path).write_text(content, encoding="utf-8")
        else:
            said.append(shell(content, folder, wheels))
    first, _, last = said
    assert re.search(r"^ok +plugin +orders +bf-hook-orders 0\.1\.0 +before_run, on_tool_call$", first, re.MULTILINE)
    assert re.search(r"^3 passed", last, re.MULTILINE)
    assert last.count("PASSED") == 2  # what twine says of sdist and wheel


def shell(script: str, folder: Path, wheels: Path) -> str:
    """Run commands of the page and return what they print."""
    script = script.replace("python3 -m venv", f"{UV} venv -q --python {sys.executable}")
    script = script.replace(".venv/bin/pip install", f"{UV} pip install --python .venv --find-links {wheels}")
    foreign = ("BF_", "PYTHON", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = ["bash", "-euc", script]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout
