"""The FileMaker Server of the tests is as strict as the real one is said to be."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from bf_hook_filemaker.testing import FakeFileMaker

BASE = "/fmi/data/vLatest/databases/Sales"
JSON = {"Content-Type": "application/json"}


def ask(server: FakeFileMaker, method: str, path: str, **options: Any) -> tuple[int, str]:
    """Make a call; return HTTP status and code."""
    options.setdefault("headers", JSON)
    answer = requests.request(method, f"{server.url}{path}", timeout=10, **options)
    return answer.status_code, answer.json()["messages"][0]["code"] if answer.text.startswith("{") else ""


def log_in(server: FakeFileMaker) -> str:
    """Return a token."""
    auth = (server.account, server.password)
    answer = requests.post(f"{server.url}{BASE}/sessions", auth=auth, json={}, timeout=10)
    assert answer.json()["response"]["token"] == answer.headers["X-FM-Data-Access-Token"]
    return answer.headers["X-FM-Data-Access-Token"]


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a call in a session."""
    return {**JSON, "Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (f"{BASE}/sessions", {"auth": ("assistant", "open sesame"), "data": "{}"}, (200, "0")),
        (f"{BASE}/sessions", {"auth": ("assistant", "wrong"), "data": "{}"}, (401, "212")),
        (f"{BASE}/sessions", {"data": "{}"}, (401, "212")),
        (f"{BASE}/sessions", {"auth": ("assistant", "open sesame"), "data": '{"a": 1}'}, (400, "960")),
        (f"{BASE}/sessions", {"auth": ("assistant", "open sesame"), "data": "{}", "headers": {}}, (415, "")),
        ("/fmi/data/vLatest/databases/No/sessions", {"auth": ("assistant", "open sesame"), "data": "{}"}, (500, "802")),
        ("/fmi/data/v9/databases/Sales/sessions", {"auth": ("assistant", "open sesame"), "data": "{}"}, (404, "")),
    ],
)
def test_logins(server: FakeFileMaker, path: str, options: dict[str, Any], expected: tuple[int, str]) -> None:
    """A login needs account, password, type and an empty object."""
    assert ask(server, "POST", path, **options) == expected


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/layouts/API/script/echo?script.param=x", (200, "0")),
        ("POST", "/layouts/API/script/echo?script.param=x", (405, "")),
        ("GET", "/layouts/No/script/echo", (500, "105")),
        ("GET", "/layouts/API/script/no", (500, "104")),
        ("GET", "/scripts", (200, "0")),
        ("GET", "/tables", (404, "")),
    ],
)
def test_calls_in_a_session(server: FakeFileMaker, method: str, path: str, expected: tuple[int, str]) -> None:
    """Scripts are run with GET, on a layout that exists."""
    assert ask(server, method, f"{BASE}{path}", headers=bearer(log_in(server))) == expected


def test_a_call_without_a_session(server: FakeFileMaker) -> None:
    """No token, an invented one, one that was logged out."""
    path = f"{BASE}/layouts/API/script/echo"
    token = log_in(server)
    assert ask(server, "GET", path) == (400, "10")
    assert ask(server, "GET", path, headers=bearer("invented")) == (401, "952")
    assert ask(server, "DELETE", f"{BASE}/sessions/{token}", headers={}) == (200, "0")
    assert ask(server, "GET", path, headers=bearer(token)) == (401, "952")


def test_the_limit_of_sessions(server: FakeFileMaker) -> None:
    """A login too many is refused until a session ends."""
    server.session_limit = 1
    token = log_in(server)
    options: dict[str, Any] = {"auth": (server.account, server.password), "data": "{}"}
    assert ask(server, "POST", f"{BASE}/sessions", **options) == (500, "812")
    ask(server, "DELETE", f"{BASE}/sessions/{token}")
    assert ask(server, "POST", f"{BASE}/sessions", **options) == (200, "0")


def test_results_come_as_text(server: FakeFileMaker) -> None:
    """Numbers of errors too; a script without a result has none in its answer."""
    headers = bearer(log_in(server))
    for script, expected in (
        ("echo?script.param=%7B%7D", {"scriptError": "0", "scriptResult": "{}"}),
        ("say%20nothing", {"scriptError": "0"}),
    ):
        answer = requests.get(f"{server.url}{BASE}/layouts/API/script/{script}", headers=headers, timeout=10)
        assert json.loads(answer.text)["response"] == expected
