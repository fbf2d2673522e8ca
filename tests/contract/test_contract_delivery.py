"""Delivery: one message in flight, the same bytes until accepted, and what happens when they never are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from bf_plugin.gateway.remote import HttpMessenger
from bf_plugin.run.outbox import Delivery
from bf_plugin.testing.deployment import APP_KEY, CHANNEL, Deployment
from bf_plugin.testing.gateway import Attempt
from bf_plugin.testing.provider import Gate, reply, text

Deploy = Callable[..., Deployment]

WAYS = pytest.mark.parametrize("way", ["host", "http"])


def distinct(attempts: list[Attempt]) -> list[bytes]:
    """Return the bodies of attempts without repetitions in a row."""
    bodies: list[bytes] = []
    for attempt in attempts:
        if not bodies or bodies[-1] != attempt.body:
            bodies.append(attempt.body)
    return bodies


def seqs(body: bytes) -> list[int]:
    """Return the seqs of a message's events."""
    return [action["options"]["seq"] for action in json.loads(body)["message"]["actions"]]


@WAYS
def test_message(deploy: Deploy, way: str) -> None:
    """Messages are posted with the app key and the channels, in-process or over HTTP."""
    deployed = deploy(messaging=way)
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.events(run)

    for attempt in deployed.gateway.attempts:
        body = json.loads(attempt.body)
        assert (body["apiKey"], body["channels"]) == (APP_KEY, [CHANNEL])


@WAYS
@pytest.mark.parametrize(
    "fault",
    [
        ("status", 500),
        ("status", 502),
        ("status", 503),
        ("status", 408),
        ("status", 425),
        ("status", 429),
        ("drop", None),
    ],
)
@pytest.mark.parametrize("delivered", [False, True])
def test_retried_with_the_same_bytes(deploy: Deploy, way: str, fault: tuple[Any, Any], delivered: bool) -> None:
    """What may pass is sent again byte for byte until it is accepted; a seq never names two contents."""
    deployed = deploy(messaging=way)
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two"))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    before = len(deployed.gateway.attempts)
    deployed.gateway.fault(*fault, times=2, delivered=delivered)
    gate.release()

    deployed.events(run)

    retried = deployed.gateway.wait_for(
        lambda: [one for one in deployed.gateway.attempts[before:] if one.status == 201]
    )
    attempts = deployed.gateway.attempts[before:]
    assert retried[0] is attempts[2]
    assert attempts[0].body == attempts[1].body == attempts[2].body
    contents: dict[int, Any] = {}
    for attempt in deployed.gateway.attempts:
        for action in attempt.actions:
            assert contents.setdefault(action["options"]["seq"], action) == action
    assert sorted(contents) == list(range(1, len(contents) + 1))
    assert deployed.text(run) == "one two"


@WAYS
def test_text_joins_meanwhile(deploy: Deploy, way: str) -> None:
    """While a message is retried text goes on joining; nothing overtakes it and nothing is lost."""
    deployed = deploy(messaging=way)
    gate = Gate()
    deployed.provider.script(text("one ", gate, *(f"{number} " for number in range(200))))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    deployed.gateway.fault("status", 503, times=2)
    gate.release()

    events = deployed.events(run)

    assert deployed.text(run) == "one " + "".join(f"{number} " for number in range(200))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len(distinct(deployed.gateway.attempts)) < 20


@WAYS
def test_one_message_in_flight(deploy: Deploy, way: str) -> None:
    """A run's next message is sent only when the one before it has its answer."""
    deployed = deploy(messaging=way, coalesce_ms=0)
    deployed.gateway.fault("delay", 0.01, times=None)
    deployed.provider.brain = lambda request: reply(text(*(f"{number} " for number in range(60))), delay=0.015)
    runs = [deployed.start(name) for name in ("a", "b", "c")]
    for run in runs:
        deployed.events(run)

    for run in runs:
        attempts = [one for one in deployed.gateway.attempts if one.actions[0]["options"]["runId"] == run["runId"]]
        assert len(attempts) > 2
        for earlier, later in itertools.pairwise(attempts):
            assert earlier.answered_at is not None
            assert earlier.answered_at <= later.at
        sent = [seq for one in attempts for seq in seqs(one.body)]
        assert sent == list(range(1, len(sent) + 1))


def test_a_slow_run_does_not_hold_others(deployed: Deployment) -> None:
    """A message that hangs holds up its own run only."""
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two"), "Another")
    slow = deployed.start()
    deployed.wait_for_text(slow, "one ")
    deployed.gateway.fault("hang")
    gate.release()
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])

    quick = deployed.start()
    assert deployed.events(quick)[-1]["finish_reason"] == "stop"

    deployed.gateway.release()
    assert deployed.events(slow)[-1]["finish_reason"] == "stop"


@WAYS
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_refused_for_good(deploy: Deploy, way: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """Any other 4xx fails the run as `delivery_failed`: nothing more is sent, the provider is cancelled."""
    deployed = deploy(messaging=way)
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two ", Gate()))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    before = len(deployed.gateway.attempts)
    deployed.gateway.fault("status", status, times=1)
    gate.release()

    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["cancelled"])

    deployed.provider.script("And on it goes")
    again = deployed.start("Go on", thread_id=run["threadId"])
    assert deployed.events(again)[-1]["finish_reason"] == "stop"
    assert deployed.stop(run)["status"] == "already_failed"
    theirs = [one for one in deployed.gateway.attempts[before:] if one.actions[0]["options"]["runId"] == run["runId"]]
    assert len(theirs) == 1
    assert any(run["runId"] in record.getMessage() for record in caplog.records if record.levelname == "WARNING")


def test_error_and_end_are_kept(deploy: Deploy) -> None:
    """`error` and `end` of an undeliverable run are on record, for pages that come back."""
    deployed = deploy()
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two ", Gate()))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    deployed.gateway.fault("status", 400, times=1)
    gate.release()
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["cancelled"])
    deployed.provider.script("And on it goes")  # on the same thread: comes after the first is wholly over
    deployed.events(deployed.start("Go on", thread_id=run["threadId"]))

    kept = kept_events(deployed, run["runId"])

    assert [event["seq"] for event in kept] == list(range(1, len(kept) + 1))
    assert [event["type"] for event in kept][-2:] == ["error", "end"]
    assert kept[-2]["error"]["code"] == "delivery_failed"
    assert kept[-1]["finish_reason"] == "error"


def kept_events(deployed: Deployment, run_id: str) -> list[dict[str, Any]]:
    """Return the events of a run that the journal has."""
    from bf_plugin.gateway.events import events_in
    from bf_plugin.journal import open_journal

    settings = deployed.settings
    assert settings.database_url is not None
    journal = open_journal(settings.database_url, settings.names("secret_key"))
    try:
        return [event for row in journal.log.all(run_id) for event in events_in(row.body)]
    finally:
        journal.close()


@WAYS
def test_given_up(deploy: Deploy, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message nobody takes is given up in the end, and the run with it."""
    monkeypatch.setitem(cast("dict[str, Any]", Delivery.__init__.__kwdefaults__), "timeout", 0.5)
    deployed = deploy(messaging=way)
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two ", Gate()))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    before = len(deployed.gateway.attempts)
    deployed.gateway.fault("status", 503, times=None)
    gate.release()

    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["cancelled"])

    attempts = deployed.gateway.attempts[before:]
    assert len(attempts) > 1
    assert len(distinct(attempts)) == 1
    assert deployed.stop(run)["status"] == "already_failed"


def test_timeouts() -> None:
    """Delivery is tried for 30 s, each attempt for 5 s."""
    delivery = cast("dict[str, Any]", Delivery.__init__.__kwdefaults__)
    messenger = cast("dict[str, Any]", HttpMessenger.__init__.__kwdefaults__)

    assert (delivery["timeout"], messenger["timeout"]) == (30.0, 5.0)


def test_duplicates_do_no_harm(deployed: Deployment) -> None:
    """A handler that places deltas by offset and drops other events by seq sees each character once."""
    deployed.gateway.fault("duplicate", times=None)
    deployed.provider.script(text("one ", "two ", "three"))
    run = deployed.start()
    deployed.events(run)

    assert deployed.text(run) == "one two three"
