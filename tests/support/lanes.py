"""An outbox with its surroundings: a message log, a messenger and a network in memory."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Destination
from bf_plugin.journal.records import Sealed
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.composer import Composer
from bf_plugin.run.outbox import Delivery, Outbox
from bf_plugin.run.pace import Pace
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import new_run


class Log:
    """A message log in memory; `failure` is raised by the next seal."""

    def __init__(self) -> None:
        self.rows: list[Sealed] = []
        self.states: dict[int, str] = {}
        self.closing: list[bool] = []
        self.failure: Exception | None = None
        self.settled = asyncio.Event()

    def seal(self, message: Sealed, *, closing: bool) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.failure is not None and not closing:
            future.set_exception(self.failure)
            return future
        self.rows.append(message)
        self.closing.append(closing)
        future.set_result(None)
        return future

    def settle(self, number: int, state: str) -> Future[None]:
        self.states[number] = state
        self.settled.set()
        return Future()

    def events(self) -> list[dict[str, Any]]:
        return [event for row in self.rows for event in events.events_in(row.body)]

    def text(self) -> str:
        return "".join(event["content"] for event in self.events() if event["type"] == "delta")


class Sink:
    """A messenger that takes messages, or answers with the errors it was given; `gate` holds it back."""

    def __init__(self, *answers: Exception | None) -> None:
        self.bodies: list[bytes] = []
        self.answers = list(answers)
        self.gate: asyncio.Event | None = None
        self.arrived = asyncio.Event()
        self.busy = False

    async def send(self, destination: Destination, message: bytes) -> None:
        assert not self.busy, "two messages of one run in flight"
        self.busy = True
        try:
            self.bodies.append(message)
            self.arrived.set()
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
            answer = self.answers.pop(0) if self.answers else None
            if answer is not None:
                raise answer
        finally:
            self.busy = False

    async def aclose(self) -> None:
        pass


class Lane:
    """An outbox with its surroundings."""

    def __init__(self, *, sink: Sink | None = None, plugin: object = None, interval: float = 0.0) -> None:
        manager = new_manager()
        if plugin is not None:
            register(manager, "test", plugin)
        self.log = Log()
        self.sink = sink or Sink()
        self.faults: list[Exception] = []
        self.pace = Pace(interval)
        destination = Destination(app="a", api_key="k", channels=["c"])
        hooks = HookCalls(manager, Workers("test", limit=1))
        self.composer = Composer(run=new_run(), hooks=hooks, action_name="handle", style="options")
        self.outbox = Outbox(
            composer=self.composer,
            log=self.log,  # type: ignore[arg-type]  # the same two methods
            delivery=Delivery(self.sink, destination, timeout=0.5),
            pace=self.pace,
            on_fault=self.faults.append,
        )

    async def __aenter__(self) -> Lane:
        self.task = asyncio.ensure_future(self.outbox.run())
        self.outbox.release()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def check_order(log: Log) -> None:
    """Assert what no run may break: numbers and seqs without gaps, offsets that join, no empty delta."""
    assert [row.number for row in log.rows] == list(range(1, len(log.rows) + 1))
    found = log.events()
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))
    offset = 0
    for event in found:
        if event["type"] == "delta":
            assert event["offset"] == offset
            assert 0 < events.utf16_length(event["content"]) <= events.DELTA_LIMIT
            offset += events.utf16_length(event["content"])
