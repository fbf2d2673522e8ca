"""A journal, a gateway and drivers, without a process around them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from bf_plugin import hookimpl
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Destination
from bf_plugin.journal import Journal, RunRecord
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.driver import Drive, Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine
from bf_plugin.testing.records import a_run
from bf_plugin.values import Outcome, Run

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


class Gateway:
    """A messenger that remembers events; `answer` may fail or wait."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answer: Callable[[], Awaitable[object]] | None = None

    async def send(self, destination: Destination, message: bytes) -> None:
        self.bodies.append(message)
        if self.answer is not None:
            await self.answer()

    async def aclose(self) -> None:
        pass

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in events.events_in(body)]

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def text(self) -> str:
        return "".join(event["content"] for event in self.events if event["type"] == "delta")


class Recorder:
    """A plugin that notes how runs end."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.reasons: list[str] = []

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @hookimpl
    def on_stop(self, run: Run, reason: str) -> None:
        self.reasons.append(reason)


class World:
    """A journal, a gateway and drivers, without a process around them."""

    def __init__(self, journal: Journal, **values: Any) -> None:
        self.journal = journal
        self.settings = Settings(coalesce_ms=0, **values)
        self.gateway = Gateway()
        self.recorder = Recorder()
        self.promoted: list[RunRecord] = []
        self.workers = Workers("test", limit=4)
        self.plugins: list[object] = [self.recorder]

    def run(
        self, engine: ScriptedEngine, thread_id: str | None = None, enqueue: bool = False, **spec: Any
    ) -> RunRecord:
        """Put a run on record."""
        record = a_run(spec=spec, **({"thread_id": thread_id} if thread_id else {}))
        timeout = self.settings.run_timeout
        creating = self.journal.runs.create(record, new_thread=thread_id is None, enqueue=enqueue, timeout=timeout)
        return creating.result(10)

    def drive(self, record: RunRecord, engine: ScriptedEngine, *, answered: bool = True) -> tuple[Drive, Ticket]:
        """Return a driver for a run on record, whose start is `answered` already, so that events may go."""
        manager = new_manager()
        for number, plugin in enumerate(self.plugins):
            register(manager, f"plugin{number}", plugin)
        parts = Parts(
            journal=self.journal,
            hooks=HookCalls(manager, self.workers),
            settings=self.settings,
            pace=Pace(self.settings.coalesce_ms / 1000),
            engine=lambda name: engine,
            messenger=lambda record: self.gateway,
        )
        ticket = Ticket()
        drive = Drive(record, parts, ticket=ticket, promoted=self.promoted.append)
        if answered:
            ticket.wait_accepted(0)
            drive.release()
        return drive, ticket

    def now(self, record: RunRecord) -> RunRecord:
        """Return a run as the journal has it now."""
        found = self.journal.runs.get(record.id, record.thread_id)
        assert found is not None
        return found

    def items(self, record: RunRecord) -> list[Mapping[str, Any]]:
        """Return the thread's items."""
        return list(self.journal.runs.thread_items(record.thread_id))

    def said(self, record: RunRecord) -> list[str]:
        """Return the thread's items in short."""
        return [_short(item) for item in self.items(record)]


def _short(item: Mapping[str, Any]) -> str:
    if item["type"] == "message":
        return f"{item['role']}: {item['content'][0]['text']}"
    return f"{item['type']} {item['call_id']}"


class Gate:
    """Something a script waits for, for ever; `reached` tells that it does."""

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.reached = asyncio.Event()
        self._ready = ready

    async def __call__(self) -> None:
        while not self._ready():
            await asyncio.sleep(0.001)
        self.reached.set()
        await asyncio.Event().wait()


def _crash(world: World, record: RunRecord, engine: ScriptedEngine, gate: Gate) -> None:
    """Drive a run until it comes to `gate`, then vanish like a killed process."""
    drive, _ = world.drive(record, engine)

    async def scenario() -> None:
        task = asyncio.ensure_future(drive.run())
        await gate.reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def _adopt(world: World, record: RunRecord) -> RunRecord:
    adopted = world.journal.runs.adopt(record.id, record.epoch, "other").result(5)
    assert adopted is not None
    return adopted
