"""The weather distribution as a gateway gets it: built, installed, found by its entry point."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DISTRIBUTION = Path(__file__).parents[2] / "hooks" / "bf-hook-weather"

ASK = """
import asyncio
import json

from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.testing import new_call, new_run
from bf_plugin.runtime.workers import Workers

plugins = load_plugins()
(report,) = [report for report in plugins.reports if report.name == "weather"]
calls = HookCalls(plugins.manager, Workers("hooks", limit=1))
call = new_call("getCurrentWeather", {"location": "San Francisco, CA"})
result = asyncio.run(calls.on_tool_call(new_run(), call))
import bf_hook_weather
print(json.dumps([report.status, report.hooks, result.output, calls.tool_options("getCurrentWeather").timeout,
                  bf_hook_weather.__file__]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources and install it, alone, into a folder."""
    folder = tmp_path_factory.mktemp("weather")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "bf_hook_weather.py"):
        (source / name).write_bytes((DISTRIBUTION / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=100)
    return folder


def test_the_wheel_holds_one_module(installed: Path) -> None:
    """No tests, no folder `hooks`, nothing but the module and its metadata."""
    (wheel,) = installed.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"bf_hook_weather.py", "bf_hook_weather-0.1.0.dist-info"}


def test_an_installed_wheel_is_found_and_answers(installed: Path) -> None:
    """A process that has it on its path answers the tool call, with the options the plugin asked for."""
    import json
    import os

    site = installed / "site"
    path = os.pathsep.join([str(site), str(DISTRIBUTION.parents[1])])
    environ = {**os.environ, "PYTHONPATH": path}
    process = subprocess.run([sys.executable, "-c", ASK], env=environ, capture_output=True, text=True, timeout=60)
    assert process.stderr == ""
    status, hooks, output, timeout, file = json.loads(process.stdout)
    assert (status, hooks, timeout) == ("ok", ["before_run", "on_tool_call"], 5)
    assert json.loads(output)["location"] == "San Francisco, CA"
    assert Path(file) == site / "bf_hook_weather.py"
