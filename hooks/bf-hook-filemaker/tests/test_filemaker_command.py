"""The command, as its README has it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bf_hook_filemaker.__main__ import main
from bf_hook_filemaker.testing import FakeCallback, FakeFileMaker
from click.testing import CliRunner, Result

Sections = Callable[..., dict[str, Any]]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Result]:
    """Return a function that writes settings and calls the command with them."""

    def run(name: str, section: dict[str, Any], *arguments: str) -> Result:
        file = tmp_path / "apps.toml"
        file.write_text(toml(["plugins", "filemaker"], section))
        return CliRunner().invoke(main, [name, str(file), *arguments])

    return run


def toml(path: list[str], table: dict[str, Any]) -> str:
    """Write a table of plain values, JSON being near enough to TOML for those."""
    lines = [f"[{'.'.join(map(json.dumps, path))}]"]
    lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    tables = [toml([*path, key], value) for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([*lines, *tables]) + "\n"


def test_a_tool_is_called(command: Callable[..., Result], section: Sections, server: FakeFileMaker) -> None:
    """What is printed is what a model would be told; sessions are ended."""
    done = command("call", section(), "find_order", '{"number": 1001}')
    assert (done.exit_code, json.loads(done.output)) == (0, {"number": 1001, "status": "shipped"})
    assert server.sessions == []


def test_a_call_that_fails(command: Callable[..., Result], section: Sections) -> None:
    """The exit code says so, for scripts."""
    done = command("call", section(), "find_order", '{"number": 1002}')
    assert done.exit_code == 1
    assert "no records match the request (FileMaker error 401)" in done.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["find_order", "{"], "ARGUMENTS: is not JSON"),
        (["find_order", "[]"], "ARGUMENTS: is no JSON object"),
        (["other"], "there is no tool other for the app app"),
        (["find_order", "--app", "elsewhere"], "there is no tool find_order for the app elsewhere"),
    ],
)
def test_a_call_that_cannot_be(
    command: Callable[..., Result], section: Sections, arguments: list[str], text: str
) -> None:
    """Each is explained."""
    done = command("call", section(connection={"apps": ["app"]}), *arguments)
    assert done.exit_code != 0
    assert text in done.output


def test_settings_that_cannot_work(command: Callable[..., Result], section: Sections) -> None:
    """File and field are named."""
    done = command("check", section(layout=None))
    assert (done.exit_code, done.exception.__class__) == (1, SystemExit)
    assert "apps.toml: tools.find_order.layout: is needed" in done.output


def test_all_that_is_named_is_there(command: Callable[..., Result], section: Sections, server: FakeFileMaker) -> None:
    """On the connection that the tool is for. Nothing is run, and a callback is left in peace."""
    settings = section(connection={"apps": ["a"]})
    settings["tools"]["find_order"]["connection"] = "sales"
    settings["connections"]["empty"] = server.connection(apps=["c"])
    with FakeCallback(lambda _: "x") as app:
        settings["connections"]["app"] = app.connection(apps=["b"])
        done = command("check", settings)
        assert app.requests == []
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            "ok       connections.sales: the account logs in",
            "ok       tools.find_order.script: 'find order' is in sales",
            "ok       tools.find_order.layout: 'API' is in sales",
            "ok       connections.empty: the account logs in",
            "skipped  connections.app: is not asked, a question would run its hook",
        ],
    )
    assert [request.path for request in server.requests if "/script/" in request.path] == []
    assert server.sessions == []


def test_what_is_not_there_is_named(command: Callable[..., Result], section: Sections) -> None:
    """With what to look at; the exit code is 1."""
    done = command("check", section(script="find oder"))
    assert done.exit_code == 1
    assert "FAIL     tools.find_order.script: 'find oder' is not in sales, or not to be seen" in done.output
    done = command("check", section(connection={"password": "geheim"}))
    assert done.exit_code == 1
    assert "FAIL     connections.sales: the account or its password is refused (FileMaker error 212): " in done.output
    assert "geheim" not in done.output


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Path]:
    """The file that a served FileMaker Server wrote."""
    file = tmp_path / "apps.toml"
    command = [sys.executable, "-u", "-m", "bf_hook_filemaker", "fake", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Serving http://127.0.0.1:")
        yield file
        process.terminate()


def test_a_server_to_try_it_with(example: Path) -> None:
    """The README's first command works with its second."""
    done = CliRunner().invoke(main, ["call", str(example), "find_order", '{"number": 1002}'])
    assert (done.exit_code, json.loads(done.output)) == (0, {"number": 1002, "status": "being packed"})
    assert CliRunner().invoke(main, ["check", str(example)]).exit_code == 0
    assert "is there already" in CliRunner().invoke(main, ["fake", str(example)]).output
