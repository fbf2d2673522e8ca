"""The fake gateway behaves as a gateway does, and fails as asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from bf_plugin.testing.gateway import GatewayServer, RecordingGateway

KEY = "BFAPI_demo"


@pytest.fixture
def gateway() -> RecordingGateway:
    return RecordingGateway(keys=[KEY], seed=1)


@pytest.fixture
def server(gateway: RecordingGateway) -> Iterator[GatewayServer]:
    with GatewayServer(gateway) as server:
        yield server


def message(*events: dict[str, Any], key: str = KEY, channel: str = "c") -> dict[str, Any]:
    actions = [{"action": "namedAction", "name": "handle", "options": event} for event in events]
    return {"apiKey": key, "channels": [channel], "message": {"actions": actions}}


def post(server: GatewayServer, body: Any) -> requests.Response:
    return requests.post(server.url + "/message/sendmessage", json=body, timeout=10)


class Browser:
    """An EventSource: reads a channel's events in a thread."""

    def __init__(self, server: GatewayServer, channel: str, last_id: int | None = None) -> None:
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        self._answer = requests.get(
            server.url + "/gateway/events", params={"channel": channel}, headers=headers, stream=True, timeout=10
        )
        assert self._answer.headers["Content-Type"] == "text/event-stream"
        self._lines = self._answer.iter_lines(chunk_size=1)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self._answer.close()

    def read(self, count: int) -> list[tuple[int, Any]]:
        """Return the next `count` messages as (id, actions)."""
        seen: list[tuple[int, Any]] = []
        number = 0
        for line in self._lines:
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                seen.append((number, json.loads(line[6:])["actions"]))
            if len(seen) == count:
                return seen
        raise AssertionError("the stream ended")


def test_echoes_and_records_a_message(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A well-formed message is answered 201 with its own body and recorded with its events."""
    body = message({"type": "delta", "content": "é", "runId": "run_1", "offset": 0})
    answer = post(server, body)
    assert (answer.status_code, answer.json()) == (201, body)
    assert gateway.events(run_id="run_1") == [body["message"]["actions"][0]["options"]]
    assert gateway.text("run_1") == "é"
    (attempt,) = gateway.messages
    assert attempt.answered_at is not None
    assert attempt.at <= attempt.answered_at


@pytest.mark.parametrize("path", ["/message/sendmessage", "/message/channels"])
def test_refuses_an_unknown_key(server: GatewayServer, gateway: RecordingGateway, path: str) -> None:
    """An unknown key is a Feathers 401 on both routes, and nothing is recorded."""
    answer = requests.post(server.url + path, json=message({}, key="BFAPI_other"), timeout=10)
    assert (answer.status_code, answer.json()["name"], answer.json()["className"]) == (
        401,
        "NotAuthenticated",
        "not-authenticated",
    )
    assert gateway.attempts == []


def test_lists_active_channels_for_a_known_key(server: GatewayServer) -> None:
    """`/message/channels` answers 201 with the active channels, which is how a key is proved valid."""
    with Browser(server, "c"):
        answer = requests.post(server.url + "/message/channels", json={"apiKey": KEY}, timeout=10)
    assert (answer.status_code, answer.json()) == (201, {"authenticated": [], "anonymous": ["c"]})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"channels": []}, "channels"),
        ({"message": {"actions": []}}, "message.actions"),
        ({"message": {"actions": [{"name": "x"}]}}, "message.actions.0"),
        ({"message": {"actions": [{"action": "namedAction"}]}}, "message.actions.0.name"),
        ({"message": {"actions": [{"action": "x", "options": 1}]}}, "message.actions.0.options"),
    ],
)
def test_refuses_a_malformed_message(server: GatewayServer, change: dict[str, Any], field: str) -> None:
    """A message of another shape is a 400 that names the field."""
    answer = post(server, {**message({}), **change})
    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == [field]


def test_delivers_to_the_browsers_of_a_channel_in_order(server: GatewayServer, gateway: RecordingGateway) -> None:
    """Every browser of the channel gets every message once, in order; other channels' browsers get none of them."""
    with Browser(server, "c") as one, Browser(server, "c") as two, Browser(server, "other") as other:
        for number in range(5):
            post(server, message({"n": number}))
        post(server, message({"n": "other"}, channel="other"))
        for browser in (one, two):
            assert [actions[0]["options"]["n"] for _, actions in browser.read(5)] == [0, 1, 2, 3, 4]
        assert other.read(1)[0][1][0]["options"] == {"n": "other"}


def test_is_lossy_unless_the_browser_says_what_it_saw(server: GatewayServer) -> None:
    """A new browser gets nothing of the past; one that sends Last-Event-ID gets what came after it."""
    with Browser(server, "c") as browser:
        post(server, message({"n": 0}))
        ((last, _),) = browser.read(1)
    post(server, message({"n": 1}))
    with Browser(server, "c") as fresh, Browser(server, "c", last) as back:
        post(server, message({"n": 2}))
        assert [actions[0]["options"]["n"] for _, actions in fresh.read(1)] == [2]
        assert [actions[0]["options"]["n"] for _, actions in back.read(2)] == [1, 2]


def test_fails_as_often_as_asked(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A status fault strikes the next messages only, and they are not delivered."""
    gateway.fault("status", 503, times=2)
    assert [post(server, message({"n": number})).status_code for number in range(3)] == [503, 503, 201]
    assert [event["n"] for event in gateway.events()] == [2]
    assert [(attempt.status, attempt.delivered) for attempt in gateway.attempts] == [
        (503, False),
        (503, False),
        (201, True),
    ]


def test_delivers_and_then_fails_when_asked(server: GatewayServer, gateway: RecordingGateway) -> None:
    """With `delivered` the browsers get the message although the caller sees a failure."""
    gateway.fault("status", 500, delivered=True)
    assert post(server, message({"n": 1})).status_code == 500
    assert gateway.events() == [{"n": 1}]


@pytest.mark.parametrize("delivered", [True, False])
def test_drops_the_connection(server: GatewayServer, gateway: RecordingGateway, delivered: bool) -> None:
    """A dropped request gets no answer at all."""
    gateway.fault("drop", delivered=delivered)
    with pytest.raises(requests.ConnectionError):
        post(server, message({"n": 1}))
    gateway.wait_for(lambda: gateway.attempts[0].status is not None)
    (attempt,) = gateway.attempts
    assert (attempt.status, attempt.delivered) == (0, delivered)
    assert post(server, message({"n": 2})).status_code == 201


def test_hangs_until_released(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A hanging request is answered only after `release`."""
    gateway.fault("hang")
    answers: list[int] = []
    caller = threading.Thread(target=lambda: answers.append(post(server, message({"n": 1})).status_code))
    caller.start()
    gateway.wait_for(lambda: gateway.attempts)
    assert gateway.messages == []
    gateway.release()
    caller.join(10)
    assert answers == [201]


def test_delays_within_a_range(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A delay with a range takes a random time within it."""
    gateway.fault("delay", (0.02, 0.04), times=None)
    post(server, message({"n": 1}))
    (attempt,) = gateway.attempts
    assert attempt.answered_at is not None
    assert attempt.answered_at - attempt.at >= 0.02


def test_duplicates_for_browsers(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A duplicated message reaches browsers twice and is recorded once."""
    gateway.fault("duplicate")
    with Browser(server, "c") as browser:
        post(server, message({"n": 1}))
        post(server, message({"n": 2}))
        assert [actions[0]["options"]["n"] for _, actions in browser.read(3)] == [1, 1, 2]
    assert len(gateway.messages) == 2


def test_waiting_tells_what_was_seen_instead(server: GatewayServer, gateway: RecordingGateway) -> None:
    """A wait that fails says what arrived, without keys or content."""
    post(server, message({"type": "delta", "content": "secret words"}))
    with pytest.raises(TimeoutError) as caught:
        gateway.wait_for(lambda: gateway.events(type="end"), timeout=0.01)
    assert "handle" in str(caught.value)
    assert KEY not in str(caught.value)
    assert "secret words" not in str(caught.value)


def test_plays_the_host(server: GatewayServer) -> None:
    """It has a page of its own and a 404 for the rest."""
    assert requests.get(server.url + "/hello", timeout=10).text == "hello from the gateway"
    assert requests.get(server.url + "/nothing", timeout=10).status_code == 404


def test_closes_with_browsers_connected_and_requests_hanging() -> None:
    """Closing the server ends event streams and hanging requests instead of waiting for them."""
    gateway = RecordingGateway(keys=[KEY])
    gateway.fault("hang")
    with GatewayServer(gateway) as server:
        browser = Browser(server, "c")
        caller = threading.Thread(target=post, args=(server, message({"n": 1})))
        caller.start()
        gateway.wait_for(lambda: gateway.attempts)
    caller.join(10)
    assert not caller.is_alive()
    with pytest.raises(AssertionError, match="the stream ended"):
        browser.read(1)
