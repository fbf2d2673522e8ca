"""`bf-plugin serve` and `bf-plugin plugins`, as typed."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import pytest
from click.testing import CliRunner

from bf_plugin.cli import main
from bf_plugin.testing.process import Site

HOST = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from the host"]
"""


pytestmark = pytest.mark.usefixtures("alone")


def test_serve_in_front_of_a_host(site: Site) -> None:
    """With --app the host's pages are served beside the endpoint; the module is found in the working directory."""
    (site.folder / "gateway.py").write_text(HOST, encoding="utf-8")
    site.provider.script("served")
    server = site.serve("bf-plugin", "serve", "--app", "gateway:application", "--listen", "127.0.0.1:0")

    assert site.http.get(server.url + "/anything", timeout=30).text == "hello from the host"
    run = site.start(server.url)
    site.events(run)
    assert site.gateway.text(run["runId"]) == "served"


def test_serve_alone(site: Site) -> None:
    """Without --app what is not ours is 404, in our form; the log goes to standard error in the form asked for."""
    site.provider.script("served")
    server = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0", BF_LOG_FORMAT="json")

    missing = site.http.get(server.url + "/anything", timeout=30)
    assert (missing.status_code, missing.json()["className"]) == (404, "not-found")
    run = site.start(server.url)
    site.events(run)
    assert site.gateway.text(run["runId"]) == "served"
    server.wait_for(run["runId"])
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    assert run["runId"] in {line.get("run_id") for line in lines}


def test_serve_hands_over_when_it_is_stopped(site: Site) -> None:
    """A polite end is quick, leaves no error, and gives up what the process owned."""
    server = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    assert server.url
    marks = site.folder / "site.db.d"
    assert len(list(marks.iterdir())) == 1

    assert server.stop() == 0

    assert "Traceback" not in server.output
    assert list(marks.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ([], {}, "without --app there is no host to send messages to: set BF_MESSAGING_URL"),
        (["--app", "no_such_module:app"], {}, "No module named 'no_such_module'"),
        (["--app", "json:no_such_attribute"], {}, "no_such_attribute"),
        (["--app", "json:dumps"], {"BF_RUN_TIMEOUT": "soon"}, "BF_RUN_TIMEOUT"),
        (["--app", "json:dumps"], {"BF_DATABASE_URL": "mysql://somewhere"}, "BF_DATABASE_URL"),
        (["--app", "json:dumps"], {"BF_SECRET_KEY": "short"}, "BF_SECRET_KEY"),
        (["--app", "json:dumps"], {"BF_APPS_FILE": "missing.toml"}, "BF_APPS_FILE: cannot read missing.toml"),
        (["--app", "json:dumps", "--listen", "256.256.256.256:1"], {}, "cannot listen on 256.256.256.256:1"),
        (["--threads", "1"], {}, "--threads"),
    ],
)
def test_serve_says_what_is_wrong(arguments: list[str], environ: dict[str, str], said: str) -> None:
    """A mistake is named with the setting or option to change, without a traceback, and the exit code tells."""
    result = CliRunner().invoke(main, ["serve", *arguments], env=environ)

    assert said in result.output
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


def test_plugins_lists_what_is_installed() -> None:
    """The built-in engine, messengers and default plugins are there, each with its hooks."""
    result = CliRunner().invoke(main, ["plugins"])

    assert result.exit_code == 0
    lines = [line.split()[:3] for line in result.output.splitlines()]
    assert ["ok", "engine", "openai"] in lines
    assert ["ok", "messenger", "https"] in lines
    assert any("on_end" in line and "bf_plugin itself" in line for line in result.output.splitlines())


def test_plugins_fails_when_one_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that cannot be imported is named with the reason, the others are listed, the exit code is 1."""
    broken = importlib.metadata.EntryPoint(name="broken", value="no_such_module:plugin", group="bf_plugin")
    installed = importlib.metadata.entry_points

    def entry_points(**select: Any) -> Any:
        found = installed(**select)
        return [*found, broken] if select.get("group") == "bf_plugin" else found

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)

    result = CliRunner().invoke(main, ["plugins"])

    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if "broken" in line]
    assert line.startswith("failed")
    assert "No module named 'no_such_module'" in result.output
    assert "openai" in result.output


def test_plugins_says_which_setting_is_wrong() -> None:
    """Settings that cannot work are named."""
    result = CliRunner().invoke(main, ["plugins"], env={"BF_RUN_TIMEOUT": "soon"})

    assert result.exit_code == 1
    assert "BF_RUN_TIMEOUT" in result.output


def test_the_commands_are_listed() -> None:
    """`bf-plugin --help` and `--version` work without loading what the commands need."""
    result = CliRunner().invoke(main, ["--help"])
    for name in ("demo", "doctor", "plugins", "runs", "serve", "worker"):
        assert f"  {name} " in result.output
    assert importlib.metadata.version("bf_plugin") in CliRunner().invoke(main, ["--version"]).output
