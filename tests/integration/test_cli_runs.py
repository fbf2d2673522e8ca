"""`bf-plugin runs`: what operators see of the journal, and what they never see."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bf_plugin import Settings, Toolbox, mount
from bf_plugin.cli import main
from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.testing.provider import Gate, call, text

Deploy = Callable[..., Deployment]


def command(deployed: Deployment, *arguments: str) -> Result:
    secret = deployed.settings.secret_key
    assert secret is not None
    assert deployed.settings.database_url is not None
    environ = {"BF_DATABASE_URL": deployed.settings.database_url, "BF_SECRET_KEY": secret.get_secret_value()}
    return CliRunner().invoke(main, ["runs", *arguments], env=environ)


def test_list(deployed: Deployment) -> None:
    """Runs under way come first; each with its age, state, outcome, owner, attempts and what it does."""
    gate = Gate()
    deployed.provider.script(text("So far ", gate), "Hello")
    under_way = deployed.start("Hi")
    deployed.wait_for_text(under_way, "So far ")
    ended = deployed.start("Hi")
    deployed.events(ended)

    deployed.gateway.wait_for(lambda: "receives step 1" in command(deployed, "list").output)  # all is accepted
    result = command(deployed, "list")

    assert result.exit_code == 0, result.output
    head, first, second = result.output.splitlines()
    assert head.split() == ["RUN", "AGE", "STATE", "OUTCOME", "APP", "OWNER", "ATTEMPTS", "DOING"]
    assert first.split()[:1] == [under_way["runId"]]
    assert first.split()[3:5] == ["active", "-"]
    assert "alive" in first
    assert first.endswith("receives step 1")
    assert second.startswith(ended["runId"])
    assert " completed " in second
    gate.release()
    deployed.events(under_way)


def test_stuck(deployed: Deployment) -> None:
    """A run whose process is gone is stuck, and said to be."""
    run = _left_behind(deployed)

    result = command(deployed, "list", "--stuck")

    assert run["runId"] in result.output
    assert "gone" in result.output
    assert "STUCK: its process is gone" in result.output


def test_nothing_is_stuck(deployed: Deployment) -> None:
    """Without runs that are stuck it says so."""
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))
    deployed.gateway.wait_for(lambda: "no run is stuck" in command(deployed, "list", "--stuck").output)


def test_show(deploy: Deploy) -> None:
    """A run's steps and calls are shown by name and state; what was said only with `--content`."""
    tools = Toolbox("weather")

    @tools.tool()
    def getWeather(city: str) -> str:  # noqa: N802
        return f"rain in {city}"

    deployed = deploy(plugins=[tools])
    deployed.provider.script([text("Let me see. "), call("getWeather", '{"city": "Oslo"}')], "It rains.")
    run = deployed.start("How is it in Oslo?", tools=tools.definitions())
    deployed.events(run)

    plain, whole = command(deployed, "show", run["runId"]), command(deployed, "show", run["runId"], "--content")

    assert (plain.exit_code, whole.exit_code) == (0, 0), plain.output + whole.output
    assert "call       getWeather (step 1): done" in plain.output
    assert "step 2" in plain.output
    for said in ("Oslo", "It rains."):
        assert said not in plain.output
        assert said in whole.output
    assert "answered: rain in Oslo" in whole.output


@pytest.mark.parametrize("arguments", [("list",), ("show",), ("show", "--content"), ("stop",)])
def test_secrets_are_never_shown(deployed: Deployment, arguments: tuple[str, ...]) -> None:
    """No command prints a thread id or a key."""
    deployed.provider.script("Hello")
    run = deployed.start("Hi")
    deployed.events(run)

    result = command(deployed, *arguments, *([run["runId"]] if arguments[0] != "list" else []))

    assert result.exit_code == 0, result.output
    for secret in (run["threadId"], APP_KEY, PROVIDER_KEY):
        assert secret not in result.output


def test_stop(deployed: Deployment) -> None:
    """Stopping decides the outcome, as the stop endpoint does; twice is once."""
    run = _left_behind(deployed)

    first, again = command(deployed, "stop", run["runId"]), command(deployed, "stop", run["runId"])

    assert first.output.splitlines()[0] == "cancelled"
    assert "its process is gone" in first.output
    assert again.output.splitlines()[0] == "already cancelled"


def test_stopping_what_another_process_drives(deployed: Deployment) -> None:
    """The process that drives the run finds the decision in the journal, and the page gets its `end`."""
    gate = Gate()
    deployed.provider.script(text("So far ", gate, "never said"))
    run = deployed.start("Hi")
    deployed.wait_for_text(run, "So far ")

    result = command(deployed, "stop", run["runId"])

    assert result.output.splitlines() == ["cancelled"]
    assert deployed.events(run, timeout=5)[-1]["finish_reason"] == "cancelled"
    assert deployed.text(run) == "So far "


def test_unknown_run(deployed: Deployment) -> None:
    """A run that is not on record is an error, for show and for stop."""
    deployed.provider.script("Hello")
    deployed.events(deployed.start("Hi"))

    for name in ("show", "stop"):
        result = command(deployed, name, "run_x")
        assert result.exit_code == 1
        assert "no run run_x is on record" in result.output


def test_terminals_are_not_commanded(deployed: Deployment) -> None:
    """What a model wrote cannot move an operator's cursor."""
    deployed.provider.script(text("\x1b[2Jgone\u202e"))
    run = deployed.start("Hi")
    deployed.events(run)

    result = command(deployed, "show", run["runId"], "--content")

    assert "said       \ufffd[2Jgone\ufffd" in result.output


def test_no_journal(tmp_path: Path) -> None:
    """Where there is no journal it says so, and makes none."""
    path = tmp_path / "no" / "journal.db"

    result = CliRunner().invoke(main, ["runs", "list"], env={"BF_DATABASE_URL": f"sqlite:///{path}"})

    assert result.exit_code == 1
    assert "there is no journal at" in result.output
    assert not path.parent.exists()


def test_the_default_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without BF_DATABASE_URL it looks where serve does; `--name` looks where mount(name=...) does."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("BF_DATABASE_URL", raising=False)

    result = CliRunner().invoke(main, ["runs", "--name", "portal", "list"])

    assert f"there is no journal at {tmp_path / 'bf_plugin' / 'portal.db'}" in result.output


def test_the_journal_of_a_mounted_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--app` may name an app that has the plugin mounted: then its own settings and name say where to look."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("BF_DATABASE_URL", raising=False)
    module = types.ModuleType("gateway_of_this_test")
    module.named = mount(print, name="portal", settings=Settings())  # type: ignore[attr-defined]
    module.placed = mount(print, settings=Settings(database_url=f"sqlite:///{tmp_path}/bf.db"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)

    for attribute, place in (("named", tmp_path / "bf_plugin" / "portal.db"), ("placed", tmp_path / "bf.db")):
        result = CliRunner().invoke(main, ["runs", "--app", f"{module.__name__}:{attribute}", "list"])
        assert f"there is no journal at {place}" in result.output


def test_another_secret_key(deployed: Deployment) -> None:
    """A key that does not fit is said to be the problem."""
    deployed.provider.script("Hello")
    run = deployed.start("Hi")
    deployed.events(run)
    environ = {"BF_DATABASE_URL": str(deployed.settings.database_url), "BF_SECRET_KEY": "A" * 43 + "="}

    result = CliRunner().invoke(main, ["runs", "show", run["runId"], "--content"], env=environ)

    assert result.exit_code == 1
    assert "another secret key" in result.output


def _left_behind(deployed: Deployment) -> dict[str, str]:
    """Start a run and close its process while it is under way."""
    gate = Gate()
    deployed.provider.script(text("So far ", gate))
    run = deployed.start("Hi")
    deployed.wait_for_text(run, "So far ")
    deployed.application.close()
    return run
