"""`bf-plugin doctor`: the gateway, its keys and the test message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bf_plugin.cli import main
from bf_plugin.doctor.gateway import ACTION
from bf_plugin.testing.deployment import APP_KEY, CHANNEL
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from examinations import OTHER_KEY, Importable, examine, installed

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def messaging(gateway: RecordingGateway) -> Iterator[str]:
    """The URL of the gateway's messaging."""
    with GatewayServer(gateway) as server:
        yield server.url


class Credulous(RecordingGateway):
    """A gateway that accepts any key."""

    def accepts(self, key: str) -> bool:
        return True


class Without(RecordingGateway):
    """A gateway whose question about keys is answered in another way."""

    def __init__(self, status: int) -> None:
        super().__init__(keys=[APP_KEY])
        self._status = status

    def route(self, method: str, path: str, environ: Any) -> Any:
        if path == "/message/channels":
            return self._status, "text/html", [b"<h1>Well</h1>"]
        return super().route(method, path, environ)


def test_the_host_app_is_asked(gateway: RecordingGateway, importable: Importable) -> None:
    """In zero configuration the app itself says which keys are valid, and takes the messages."""
    app = importable(gateway)

    plain = examine("--app", app)
    known = examine("--app", app, "--app-key", APP_KEY, "--channel", CHANNEL)
    unknown = examine("--app", app, "--app-key", OTHER_KEY)

    assert plain.failures == []
    assert plain.of("messaging", "ok") == ["the host app refuses a made-up key"]
    assert known.of("messaging") == [
        "the host app refuses a made-up key",
        "the host app knows the key given",
        f"the host app took a test message for channel {CHANNEL} with the key given",
    ]
    assert "does not know the key given (401) -> correct it" in unknown.failure("messaging")
    assert [attempt.channels for attempt in gateway.attempts] == [[CHANNEL]]


def test_a_gateway_that_accepts_anything(importable: Importable) -> None:
    """Zero configuration is off there, which every start would say; with keys configured it is worth a word."""
    app = importable(Credulous())

    asked_for_keys = examine("--app", app, "--app-key", APP_KEY, "--channel", CHANNEL)
    configured = examine("--app", app, "--channel", CHANNEL, BF_API_KEYS=APP_KEY)

    said = asked_for_keys.failure("messaging")
    assert "the host app accepts any key, a made-up one too -> set BF_API_KEYS or BF_APPS_FILE" in said
    assert configured.failures == []
    assert "it accepts any, a made-up one too" in configured.of("messaging", "skipped")[0]
    assert "took a test message" in configured.of("messaging", "ok")[0]


@pytest.mark.parametrize("status", [200, 302, 400, 404, 503])
def test_a_gateway_that_does_not_tell(importable: Importable, status: int) -> None:
    """Where it is asked for keys that is a failure; else only one if it is not well."""
    app = importable(Without(status))

    assert f"answered {status}" in examine("--app", app).failure("messaging")
    configured = examine("--app", app, "--channel", CHANNEL, BF_API_KEYS=APP_KEY)
    assert [part for part, _ in configured.failures] == (["messaging"] if status == 503 else [])
    assert "took a test message" in configured.of("messaging", "ok")[-1]


def test_a_host_app_that_raises(importable: Importable) -> None:
    """It is said where, and with what; what the error quotes is not."""

    def broken(environ: Any, start_response: Any) -> Any:
        raise ValueError(f"{environ['wsgi.input'].read()!r}")

    said = examine("--app", importable(broken), "--app-key", APP_KEY).failure("messaging")

    assert "the host app raised ValueError in broken (" in said
    assert "--url" in said


def test_the_address_of_the_gateway(gateway: RecordingGateway, importable: Importable) -> None:
    """A host app sees the address that `--url` gives, as with a request from there."""
    seen: list[tuple[str, ...]] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append(tuple(environ[name] for name in ("wsgi.url_scheme", "HTTP_HOST", "SCRIPT_NAME", "SERVER_PORT")))
        return gateway(environ, start_response)

    examine("--app", importable(app), "--url", "https://gateway.example.com/portal/")
    examine("--app", importable(app), "--url", "http://gateway.example.com:8080")

    assert seen == [
        ("https", "gateway.example.com", "/portal", "443"),
        ("http", "gateway.example.com:8080", "", "8080"),
    ]
    assert CliRunner().invoke(main, ["doctor", "--url", "gateway"]).exit_code == 2


def test_a_remote_gateway_is_asked(messaging: str) -> None:
    """With `BF_MESSAGING_URL` and no keys the gateway there is asked, over HTTP."""
    report = examine("--app-key", APP_KEY, "--channel", CHANNEL, BF_MESSAGING_URL=messaging)

    assert report.of("messaging") == [
        f"{messaging} refuses a made-up key",
        f"{messaging} knows the key given",
        f"{messaging} took a test message for channel {CHANNEL} with the key given",
    ]


def test_every_key_and_every_app(messaging: str, gateway: RecordingGateway, tmp_path: Path) -> None:
    """Each key is asked about where its messages go; each app sends one test message, with its first key."""
    (tmp_path / "apps.toml").write_text(
        f"[apps.portal]\napi_keys = ['{APP_KEY}', '{OTHER_KEY}']\nmessaging_url = '{messaging}'\n"
        "[apps.down]\napi_keys = ['a-third']\nmessaging_url = 'http://someone:hunter2@127.0.0.1:1/x?y=hunter2'\n",
        encoding="utf-8",
    )

    report = examine("--channel", CHANNEL, BF_APPS_FILE=str(tmp_path / "apps.toml"))

    assert report.of("messaging", "ok") == [
        f"{messaging} refuses a made-up key",
        f"{messaging} knows key 1 of apps.portal",
        f"{messaging} took a test message for channel {CHANNEL} with key 1 of apps.portal",
    ]
    failures = [text for _, text in report.failures]
    assert f"{messaging} does not know key 2 of apps.portal (401)" in failures[0]
    assert "http://127.0.0.1:1/x, asked about a made-up key: the gateway gave no answer" in failures[1]
    assert "did not take a test message with key 1 of apps.down: the gateway cannot be reached" in failures[2]
    assert len(failures) == 3
    assert len(gateway.attempts) == 1


def test_a_key_that_is_not_configured(messaging: str) -> None:
    """Where keys are configured, the key to test with is one of them."""
    settings = {"BF_API_KEYS": f"first-key,{APP_KEY}", "BF_MESSAGING_URL": messaging}

    assert "none of those configured" in examine("--app-key", OTHER_KEY, **settings).failure("messaging")
    assert examine("--app-key", APP_KEY, **settings).of("messaging", "ok")[1:] == [
        f"{messaging} knows key 2 of BF_API_KEYS"
    ]


def test_a_test_message_that_is_refused(messaging: str, gateway: RecordingGateway) -> None:
    """The gateway's answer is told, with what it means."""
    gateway.fault("status", 422)
    refused = examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging)
    gateway.fault("status", 503)
    busy = examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging)

    assert "with key 1 of BF_API_KEYS: the gateway answered 422 -> the key is not valid" in refused.failure("messaging")
    assert "the gateway answered 503 -> see that the gateway runs" in busy.failure("messaging")


def test_the_test_message_needs_a_key(gateway: RecordingGateway, importable: Importable) -> None:
    """Where no key is configured, and none was given, it is said that one is needed."""
    report = examine("--app", importable(gateway), "--channel", CHANNEL)

    assert "a test message needs an app key: give one with --app-key" in report.of("messaging", "skipped")
    assert gateway.attempts == []


def test_the_key_can_be_typed(gateway: RecordingGateway, importable: Importable) -> None:
    """`--app-key` without a value asks for it, and does not show it."""
    arguments = ["doctor", "--app", importable(gateway), "--app-key"]

    result = CliRunner().invoke(main, arguments, input=f"{APP_KEY}\n")

    assert "the host app knows the key given" in result.output
    assert APP_KEY not in result.output


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_the_test_message_is_harmless(messaging: str, gateway: RecordingGateway, style: str) -> None:
    """One named action that is nobody's, in the operator's style, without keys a page would run."""
    examine("--channel", CHANNEL, BF_API_KEYS=APP_KEY, BF_MESSAGING_URL=messaging, BF_EVENT_STYLE=style)

    (action,) = gateway.actions()
    assert (action["action"], action["name"]) == ("namedAction", ACTION)
    flat, nested = action["options"], action["options"].get("data")
    assert set(flat) - {"data"} == ({"type", "content"} if style != "data" else set())
    assert set(nested or {}) == ({"type", "content"} if style != "options" else set())
    assert (flat if style == "options" else nested)["type"] == "test"


def test_a_scheme_without_a_messenger() -> None:
    """Those that are installed are named."""
    report = examine(BF_API_KEYS=APP_KEY, BF_MESSAGING_URL="pigeon://loft")

    said = report.failure("messaging")
    known = ", ".join(f"{scheme}://" for scheme in installed("messengers"))
    assert said == f"pigeon://loft: no messenger is installed for its scheme -> installed are: {known}"
