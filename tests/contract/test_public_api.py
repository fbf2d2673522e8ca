"""The public names: sorted, there, explained, and light to import."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import bf_plugin

ROOT = Path(__file__).parents[2]

HEAVY = ("aiohttp", "cryptography", "falcon", "jsonschema", "openai", "requests", "sqlalchemy", "waitress")
"""What costs a gateway's start: loaded with the first request, or when it is needed."""


def test_the_names_are_sorted_and_complete() -> None:
    """`__all__` is sorted, and is all that the package offers besides its modules."""
    assert bf_plugin.__all__ == sorted(bf_plugin.__all__)
    offered = {
        name for name, value in vars(bf_plugin).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert offered - {"annotations"} == set(bf_plugin.__all__)


def test_the_names_are_documented() -> None:
    """docs/README.md lists each with the first line of its docstring, and no other."""
    page = (ROOT / "docs" / "README.md").read_text(encoding="utf-8").partition("## Public names")[2]
    first_lines = {
        name: (inspect.getdoc(getattr(bf_plugin, name)) or "").partition("\n")[0] for name in bf_plugin.__all__
    }
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)) == first_lines


def test_importing_is_light() -> None:
    """A gateway that imports the package loads none of the heavy libraries, starts nothing and logs nothing."""
    script = (
        "import json, sys, threading; import bf_plugin;"
        f"print(json.dumps([[name for name in {HEAVY!r} if name in sys.modules], threading.active_count()]))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(done.stdout) == [[], 1]
    assert done.stderr == ""


def test_mounting_starts_nothing() -> None:
    """`mount` itself touches neither the disk nor the network; the first request, or `start`, does."""
    script = (
        "import pathlib, sys, threading; from bf_plugin import mount; mount(lambda environ, start_response: []);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], threading.active_count())"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.split() == ["[]", "1"]
