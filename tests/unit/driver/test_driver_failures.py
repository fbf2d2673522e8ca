"""The driver: refusals, failures, deadlines; engines and hooks that fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bf_plugin import StopRun, hookimpl
from bf_plugin.errors import DeliveryRefused, ProviderError, RequestError
from bf_plugin.gateway import events
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine, call
from drives import Gate, World


def test_a_refused_start_leaves_nothing(world: World) -> None:
    """A provider's refusal is the start's answer; run and thread are gone, no event was sent."""
    engine = ScriptedEngine([ProviderError("no such model", status=404, code="model_not_found")])
    record = world.run(engine)
    drive, ticket = world.drive(record, engine, answered=False)

    asyncio.run(drive.run())

    with pytest.raises(RequestError, match="no such model") as caught:
        ticket.wait_accepted(1)
    assert caught.value.code == 400
    assert world.journal.runs.get(record.id, record.thread_id) is None
    assert not world.journal.runs.has_thread(record.thread_id, "app")
    assert world.gateway.bodies == []


def test_a_refusal_after_the_answer_is_an_event(world: World) -> None:
    """Once a start is answered, its refusal is told by `error` and `end`."""
    engine = ScriptedEngine([ProviderError("down", status=503)])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types() == ["threadInfo", "error", "end"]
    assert world.gateway.events[-1]["finish_reason"] == "error"
    assert world.now(record).outcome == "failed"
    assert world.said(record) == ["user: hello"]


def test_a_failure_in_mid_stream(world: World) -> None:
    """Text, then `error`, then `end`; the text stays."""
    engine = ScriptedEngine(["so far", ProviderError("broken", code="server_error")])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types()[-2:] == ["error", "end"]
    assert world.gateway.events[-2]["error"]["code"] == "server_error"
    assert world.gateway.text() == "so far"
    assert world.said(record) == ["user: hello", "assistant: so far"]


def test_a_deadline(world: World) -> None:
    """A run that takes too long expires."""
    world.settings = Settings(coalesce_ms=0, run_timeout=0.2)
    engine = ScriptedEngine(["so far", Gate()])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-1]["finish_reason"] == "expired"
    assert world.gateway.events[-2]["error"]["code"] == "run_expired"
    assert world.now(record).outcome == "expired"
    assert world.recorder.reasons == ["deadline"]


def test_a_gateway_that_refuses(world: World) -> None:
    """A run that cannot be delivered fails; its end is on record and not sent, the provider is cancelled."""

    async def refuse() -> None:
        if "delta" in world.gateway.types():
            raise DeliveryRefused("404")

    world.gateway.answer = refuse
    engine = ScriptedEngine(["text", Gate()])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.types() == ["threadInfo", "delta"]
    kept = [event for row in world.journal.log.all(record.id) for event in events.events_in(row.body)]
    assert [event["type"] for event in kept][-2:] == ["error", "end"]
    assert kept[-2]["error"]["code"] == "delivery_failed"
    assert engine.cancelled == [{"response_id": "resp_1"}]


@pytest.mark.parametrize(("reason", "outcome"), [("content_filter", "completed"), ("error", "failed")])
def test_a_hook_stops_the_run(world: World, reason: str, outcome: str) -> None:
    """StopRun from a tool ends the run as it says."""

    class Guard:
        @hookimpl
        def on_tool_call(self) -> object:
            raise StopRun(reason, "enough")

    world.plugins.append(Guard())
    engine = ScriptedEngine([call("x")])
    record = world.run(engine)

    asyncio.run(world.drive(record, engine)[0].run())

    assert world.gateway.events[-1]["finish_reason"] == reason
    assert world.now(record).outcome == outcome


class Broken(ScriptedEngine):
    """An engine whose cancel and cut fail, as one of another distribution may."""

    async def cancel(self, handle: Any, access: Any) -> None:
        raise OSError("no route")

    def cut(self, state: Any, handle: Any) -> None:
        raise KeyError("cursor")


def test_an_engine_that_fails_at_the_end(world: World) -> None:
    """Plugins are told of the end, and the thread is free."""
    engine = Broken(["text", ProviderError("broken")])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.now(record).state == "ended"
    assert [outcome.status for outcome in world.recorder.outcomes] == ["failed"]


async def _cancelled_within() -> None:
    raise asyncio.CancelledError


def test_an_engine_that_cancels_itself(world: World) -> None:
    """A cancellation nobody asked for is a failure, not the end of the driver."""
    engine = ScriptedEngine(["text", _cancelled_within])
    record = world.run(engine)

    asyncio.run(asyncio.wait_for(world.drive(record, engine)[0].run(), 10))

    assert world.gateway.types() == ["threadInfo", "delta", "error", "end"]
