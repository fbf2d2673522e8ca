"""`bf-plugin new-hook`: what it makes works as it is, from the wheel, where nothing else is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bf_plugin.cli import main

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "dist")

Make = Callable[..., Result]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Call the command, for a folder of the test."""
    return lambda name: CliRunner().invoke(main, ["new-hook", "--directory", str(tmp_path), "--", name])


def test_it_says_what_comes_next(make: Make, tmp_path: Path) -> None:
    """The commands it prints name the folder it made."""
    done = make("order-status")
    assert done.exit_code == 0
    folder = tmp_path / "bf-hook-order-status"
    assert f"pip install -e {folder} 'bf_plugin[testing]'" in done.output
    assert f"pytest {folder}" in done.output
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md",
        "bf_hook_order_status.py",
        "pyproject.toml",
        "tests/test_bf_hook_order_status.py",
        "tox.ini",
    ]


def test_no_name_of_the_example_is_left(make: Make, tmp_path: Path) -> None:
    """Distribution, module, entry point, toolbox and tool: two distributions made with it do not meet."""
    make("order-status")
    texts = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert [
        text for text in texts if re.search(r"hook.weather|getCurrentWeather|[\"']weather[\"']|^weather", text)
    ] == []
    assert 'order-status = "bf_hook_order_status:tools"' in "".join(texts)
    assert 'Toolbox("order-status")' in "".join(texts)


def test_the_prefix_may_be_given(make: Make, tmp_path: Path) -> None:
    """Whoever has read the rules types the whole name."""
    assert make("bf-hook-orders").exit_code == 0
    assert (tmp_path / "bf-hook-orders").is_dir()


@pytest.mark.parametrize("name", ["", "Orders", "9lives", "a--b", "-a", "a-", "a_b", "a/b", "..", "ä", "a b"])
def test_other_names_are_refused(make: Make, tmp_path: Path, name: str) -> None:
    """Nothing is made, and the message says what a name is."""
    done = make(name)
    assert done.exit_code == 1
    assert "small letters, digits and single dashes" in done.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_touched(make: Make, tmp_path: Path) -> None:
    """A folder of that name is somebody's work."""
    (tmp_path / "bf-hook-orders").mkdir()
    done = make("orders")
    assert done.exit_code == 1
    assert "is there already" in done.output
    assert list((tmp_path / "bf-hook-orders").iterdir()) == []


@pytest.mark.timeout(600)  # a fresh environment takes its time
def test_what_it_makes_passes_its_tests_where_nothing_else_is(make: Make, tmp_path: Path) -> None:
    """Both wheels in a new environment: the plugin is found, and its tests pass."""
    shutil.copytree(ROOT, tmp_path / "core", ignore=LEFT_OUT)
    make("orders")
    python, uv = tmp_path / "venv" / "bin" / "python", shutil.which("uv", path=str(Path(sys.executable).parent))
    assert uv is not None
    for source in ("core", "bf-hook-orders"):
        run(uv, "build", "-q", "--wheel", "--out-dir", str(tmp_path / "wheels"), str(tmp_path / source))
    run(uv, "venv", "-q", "--python", sys.executable, str(tmp_path / "venv"))
    wheels = {path.name.partition("-")[0]: str(path) for path in (tmp_path / "wheels").glob("*.whl")}
    run(
        uv, "pip", "install", "-q", "--python", str(python), f"{wheels['bf_plugin']}[testing]", wheels["bf_hook_orders"]
    )

    listed = run(str(python.with_name("bf-plugin")), "plugins")
    tested = run(str(python.with_name("pytest")), "-q", "-W", "error", str(tmp_path / "bf-hook-orders"))

    assert re.search(r"^ok +plugin +orders +bf-hook-orders 0\.1\.0 +before_run, on_tool_call$", listed, re.MULTILINE)
    assert re.search(r"^\d+ passed", tested, re.MULTILINE)


def run(*command: str) -> str:
    """Run a command to its end and return its output."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BF_", "PYTHON", "OPENAI_"))}
    done = subprocess.run(
        command, env=environ, cwd=Path(command[0]).parent, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
