"""What the doctor makes of what it sees, without looking anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.doctor import checkup
from bf_plugin.doctor.asking import Asker
from bf_plugin.doctor.checkup import Subject, check_up
from bf_plugin.doctor.finding import PARTS, Finding, failed, shown
from bf_plugin.doctor.gateway import Gateway, Receiver
from bf_plugin.doctor.postgres import heartbeat
from bf_plugin.doctor.provider import check_provider, operator_keys
from bf_plugin.doctor.settings import secrets_of
from bf_plugin.errors import JournalError
from bf_plugin.gateway.apps import App, key_digest
from bf_plugin.gateway.asking import AskAnswer
from bf_plugin.gateway.messengers import Destination
from bf_plugin.plugins.loaded import PluginReport, Plugins
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.settings import Settings, load_settings

APPS = """
[apps.portal]
api_keys = ["portal-key-1", "portal-key-2"]
openai_api_key = "sk-portal"
assistants.helper = {model = "small"}

[apps.other]
api_keys = ["other-key"]
model = "own"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "apps.toml").write_text(APPS, encoding="utf-8")
    return load_settings(
        apps_file=tmp_path / "apps.toml", openai_api_key="sk-all", model="big", secret_key="first-key, second-key"
    )


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.close()


def test_secrets_are_those_of_all_fields(settings: Settings) -> None:
    """What may be quoted by somebody's error is known, whichever setting it came from."""
    theirs = {"portal-key-1", "portal-key-2", "sk-portal", "other-key", "sk-all", "first-key", "second-key"}
    assert secrets_of(settings) == theirs
    assert secrets_of(load_settings(api_keys="one, two")) == {"one", "two"}
    assert secrets_of(Settings()) == set()


@given(secret=st.text(st.characters(codec="utf-8"), min_size=6), text=st.text())
def test_a_finding_holds_no_secret(secret: str, text: str) -> None:
    """Neither in its text nor in its advice."""
    finding = failed("plugins", f"{text}{secret}{text}", f"see {secret}").without([secret, "", "a"])
    if secret not in "[redacted]":
        assert secret not in finding.text.replace("[redacted]", "")
        assert secret not in str(finding.advice).replace("[redacted]", "")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://user:hunter2@gw.example:8443/x/?key=hunter2#hunter2", "https://gw.example:8443/x"),
        ("http://gw.example", "http://gw.example"),
        ("http://[", "(not a URL)"),
        ("http://gw:hunter2", "(not a URL)"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(url: str, text: str) -> None:
    """No user, password, query or fragment."""
    assert shown(url) == text


def test_each_key_with_the_models_asked_for_with_it(settings: Settings) -> None:
    """An app without a key of its own uses the one for all, an app without a model the one for all."""
    keys = {key.value: (key.sources, key.models) for key in operator_keys(settings)}

    assert keys == {
        "sk-all": ({"BF_OPENAI_API_KEY"}, {"own": {"apps.other.model"}}),
        "sk-portal": (
            {"apps.portal.openai_api_key"},
            {"big": {"BF_MODEL"}, "small": {"apps.portal.assistants.helper.model"}},
        ),
    }
    with_keys = operator_keys(load_settings(api_keys="x", openai_api_key="sk-all", model="big"))
    assert [key.models for key in with_keys] == [{"big": {"BF_MODEL"}}]
    assert operator_keys(load_settings(model="big", openai_api_key="")) == []


def test_another_distributions_engine_is_not_asked_about() -> None:
    """Where a distribution has replaced the built-in engine, its provider may be anywhere."""
    installed = load_plugins()
    report = PluginReport(name="openai", kind="engine", status="ok", distribution="acme", version="1")
    plugins = Plugins(manager=installed.manager, engines={}, messengers={}, reports=[report])

    (finding,) = check_provider(load_settings(openai_api_key="sk-all"), plugins)

    assert finding == Finding("provider", "skipped", "engine openai is acme's: which server it asks only it knows")


@pytest.mark.parametrize(
    ("trip", "beat", "status"), [(0.001, 1.0, "ok"), (0.1, 1.0, "ok"), (0.11, 1.0, "failed"), (0.02, 0.1, "failed")]
)
def test_a_heartbeat_needs_a_near_server(trip: float, beat: float, status: str) -> None:
    """A beat is a transaction: one that takes as long as the pause between beats makes the living look dead."""
    finding = heartbeat(trip, Settings(heartbeat=beat, heartbeat_timeout=5.0))

    assert finding.status == status
    assert (f"set BF_HEARTBEAT to {10 * trip:.1f}" in (finding.advice or "")) == (status == "failed")


@pytest.mark.parametrize("key", ["sk-schlüssel\n", "sk-\u2026"])
def test_a_key_that_cannot_be_sent_is_not_told(key: str) -> None:
    """What the HTTP library says of it would quote it."""
    answer = Asker("http://127.0.0.1:1", key).ask("GET", "/models")

    assert (answer.status, answer.problem) == (None, "the key holds characters that cannot be sent")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (JournalError("see the disk"), "see the disk"),
        (ValueError("sk-secret"), "the check itself failed: ValueError (test_checkup.py:"),
    ],
)
def test_a_check_that_fails_itself(monkeypatch: pytest.MonkeyPatch, error: Exception, text: str) -> None:
    """It is a finding of its own, which quotes nothing, and those behind it are made."""

    def broken(url: str, settings: Settings) -> Iterator[Finding]:
        yield from ()
        raise error

    monkeypatch.setattr(checkup, "check_database", broken)

    found = list(check_up(Subject(settings=Settings(), database="sqlite:///x")))

    (database,) = (finding for finding in found if finding.part == "database")
    assert database.text.startswith(text)
    assert "sk-secret" not in database.text
    assert list(dict.fromkeys(finding.part for finding in found)) == list(PARTS)


class Pigeon:
    """A messenger of somebody else's."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.sent: list[tuple[Destination, bytes]] = []

    async def send(self, destination: Destination, message: bytes) -> None:
        self.sent.append((destination, message))
        if isinstance(self.error, asyncio.TimeoutError):
            await asyncio.get_running_loop().create_future()
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None: ...


APP = App(id=key_digest("portal-key"), api_key="portal-key", messaging_url="pigeon://loft")


def receiver(loop: LoopThread, pigeon: Pigeon) -> Receiver:
    gateway = Gateway(messengers={"pigeon": pigeon}, loop=loop, caller=None, environ={})
    return Receiver(gateway, "pigeon://loft", asked=False)


def test_another_messenger_sends_the_test_message(loop: LoopThread) -> None:
    """A distribution's messenger cannot be asked about keys, but takes the message."""
    pigeon = Pigeon()

    probe, tells = receiver(loop, pigeon).probe()
    sent = receiver(loop, pigeon).send("key 1", APP, "channel-1", "options")

    assert (probe.status, tells) == ("skipped", False)
    assert sent.status == "ok"
    ((destination, message),) = pigeon.sent
    assert (destination.url, destination.channels, destination.host_environ) == ("pigeon://loft", ["channel-1"], None)
    assert b'"name":"bfPluginDoctor"' in message


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("portal-key"), "raised ValueError"), (asyncio.TimeoutError(), "the test message took longer than")],
)
def test_another_messenger_fails(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, error: Exception, text: str
) -> None:
    """It is named by what it raised, or by its silence, never by what it said."""
    monkeypatch.setattr("bf_plugin.doctor.gateway._TIMEOUT", 0.05)

    finding = receiver(loop, Pigeon(error)).send("key 1", APP, "channel-1", "options")

    assert (finding.status, text in finding.text) == ("failed", True)
    assert "portal-key" not in finding.text
    assert finding.advice


@pytest.mark.parametrize(
    ("answer", "asked", "status", "tells"),
    [
        (AskAnswer(401, True), True, "ok", True),
        (AskAnswer(403, False), False, "ok", True),
        (AskAnswer(201, True), True, "failed", False),
        (AskAnswer(200, True), False, "skipped", False),
        (AskAnswer(200, False), True, "failed", False),
        (AskAnswer(200, False), False, "skipped", False),
        (AskAnswer(400, True), True, "failed", True),
        (AskAnswer(404, False), False, "skipped", False),
        (AskAnswer(429, False), True, "failed", False),
        (AskAnswer(500, False), False, "failed", False),
        (AskAnswer(None), True, "failed", False),
        (AskAnswer(None), False, "failed", False),
    ],
)
def test_what_the_answer_about_a_made_up_key_means(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch, answer: AskAnswer, asked: bool, status: str, tells: bool
) -> None:
    """Who is asked for keys must refuse it; where keys are configured only a gateway that is not well is a failure."""
    seen: list[str] = []

    def ask(key: str, environ: Mapping[str, Any]) -> AskAnswer:
        seen.append(key)
        return answer

    monkeypatch.setattr("bf_plugin.doctor.gateway.ask_remote", lambda url: ask)
    gateway = Gateway(messengers={"https": Pigeon()}, loop=loop, caller=None, environ={})

    finding, useful = Receiver(gateway, "https://gw.example", asked=asked).probe()

    assert (finding.status, useful) == (status, tells)
    assert bool(finding.advice) == (status == "failed")
    assert all(key.startswith("BFAPI_") and key not in finding.text for key in seen)
