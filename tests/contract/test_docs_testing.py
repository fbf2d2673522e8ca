"""What docs/testing.md says about the kit is so: its examples run as the tests they are, its tables are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bf_plugin.testing.conformance import RULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.mark.timeout(300)  # servers are started and killed
def test_its_examples_run(tmp_path: Path, install: Callable[..., None]) -> None:
    """Each is a file of tests, in a project that has nothing but pytest, the plugin and the distribution they name."""
    weather = (ROOT / "hooks" / "bf-hook-weather" / "bf_hook_weather.py").read_text(encoding="utf-8")
    install("bf_hook_weather", weather, requires="bf_plugin>=0.1,<1", plugin="weather = bf_hook_weather:tools")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    examples = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for number, example in enumerate(examples):
        (tmp_path / f"test_example_{number}.py").write_text(example, encoding="utf-8")
    tests = sum(example.count("\ndef test_") for example in examples)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:anyio", "."]

    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280)

    assert re.search(rf"^{tests} passed", done.stdout, re.MULTILINE), done.stdout
    assert tests >= 9


def test_its_table_of_rules_is_that_of_the_check() -> None:
    """Each rule, with the words the check uses."""
    table = PAGE.partition("| rule | asks |")[2].partition("\n\n")[0]
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", table, re.MULTILINE)) == RULES
