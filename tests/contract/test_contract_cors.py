"""CORS: off by default, exact origins, never for starting and deleting, never with credentials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from bf_plugin.errors import ConfigurationError
from bf_plugin.runtime.ids import new_run_id, new_thread_id
from bf_plugin.runtime.paths import PREFIX
from bf_plugin.settings import Settings
from bf_plugin.testing.deployment import Deployment
from bf_plugin.web.mount import mount

Deploy = Callable[..., Deployment]

THREAD_ID = "thread_" + 28 * "t"
RUN_ID = "run_" + 28 * "r"
ORIGIN = "https://app.example.com"
OPEN = [
    ("GET", f"/runs/{RUN_ID}"),
    ("GET", f"/runs/{RUN_ID}/events"),
    ("POST", "/stop"),
    ("POST", "/tool-response"),
]
CLOSED = [
    ("POST", ""),
    ("DELETE", f"/threads/{THREAD_ID}"),
    ("GET", f"/threads/{THREAD_ID}/messages"),
    ("GET", "/plugins"),
    ("GET", "/healthz"),
    ("GET", "/openapi.json"),
]

# werkzeug's lint asks for `Content-Length: 0`, which RFC 9110 (8.6) forbids with 204.
pytestmark = pytest.mark.filterwarnings("ignore:204 responses")


def ask(deployed: Deployment, method: str, path: str, origin: str | None = ORIGIN, **headers: str) -> requests.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if origin is not None:
        sent["Origin"] = origin
    body = {"threadId": new_thread_id(), "runId": new_run_id(), "toolCallId": "tool_x"} if method == "POST" else None
    return deployed.http.request(method, deployed.url + PREFIX + path, headers=sent, json=body, timeout=20)


def preflight(deployed: Deployment, method: str, path: str, origin: str = ORIGIN) -> requests.Response:
    return ask(deployed, "OPTIONS", path, origin, Access_Control_Request_Method=method)


def allowed(answer: requests.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


@pytest.fixture
def listed(deploy: Deploy) -> Deployment:
    """The plugin with two origins allowed."""
    return deploy(cors_origins=f"{ORIGIN}, http://localhost:5173")


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_preflight(listed: Deployment, method: str, path: str) -> None:
    """A preflight of a listed origin is 204 with the method and the four headers."""
    answer = preflight(listed, method, path)

    assert (answer.status_code, answer.content) == (204, b"")
    assert allowed(answer) == {
        "Access-Control-Allow-Origin": ORIGIN,
        "Access-Control-Allow-Methods": method,
        "Access-Control-Allow-Headers": "Content-Type, X-Thread-Id, Last-Event-ID, X-Request-ID",
        "Access-Control-Expose-Headers": "X-Request-ID, Retry-After",
        "Access-Control-Max-Age": "600",
    }
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(("method", "path"), OPEN)
@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:5173"])
def test_answers(listed: Deployment, method: str, path: str, origin: str) -> None:
    """Answers, errors among them, may be read by pages of listed origins."""
    answer = ask(listed, method, path, origin)

    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert "Origin" in answer.headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "HTTPS://APP.EXAMPLE.COM",
        "null",
        "*",
        "",
    ],
)
@pytest.mark.parametrize(("method", "path"), OPEN)
def test_other_origins(listed: Deployment, method: str, path: str, origin: str) -> None:
    """Other origins, however alike, are allowed nothing; caches are told that it depends on the origin."""
    for answer in (preflight(listed, method, path, origin), ask(listed, method, path, origin)):
        assert allowed(answer) == {}
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_never(listed: Deployment, method: str, path: str) -> None:
    """Starting, deleting and whatever takes an app key are closed to other origins."""
    for answer in (preflight(listed, method, path), ask(listed, method, path)):
        assert allowed(answer) == {}


@pytest.mark.parametrize(("method", "path"), OPEN + CLOSED)
def test_off_by_default(deployed: Deployment, method: str, path: str) -> None:
    """Without the setting no answer mentions origins."""
    for answer in (preflight(deployed, method, path), ask(deployed, method, path)):
        assert allowed(answer) == {}
        assert "Origin" not in answer.headers.get("Vary", "")


def test_the_same_origin(listed: Deployment) -> None:
    """A request without an origin is served as ever."""
    answer = ask(listed, "POST", "/stop", None)

    assert answer.status_code == 200
    assert allowed(answer) == {}


def test_a_stream(listed: Deployment) -> None:
    """An event stream may be read by a page of a listed origin."""
    listed.provider.script("Hello")
    run = listed.start("Hi")
    listed.events(run)

    answer = listed.get(
        f"/runs/{run['runId']}/events",
        headers={"Origin": ORIGIN, "Accept": "text/event-stream", "X-Thread-Id": run["threadId"]},
        params={"after": "1"},
    )

    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Accept" in answer.headers["Vary"]
    assert '"type":"end"' in answer.text


@pytest.mark.parametrize(
    "origin", ["*", "https://app.example.com/", "app.example.com", "https://*.example.com", "null"]
)
def test_origins_that_are_none(tmp_path: Path, origin: str) -> None:
    """An entry that no page's origin can equal is a configuration error that names it."""
    settings = Settings(cors_origins=origin, database_url=f"sqlite:///{tmp_path / 'journal.db'}")

    with pytest.raises(ConfigurationError, match="BF_CORS_ORIGINS"):
        mount(lambda environ, start_response: [], settings=settings).start()
