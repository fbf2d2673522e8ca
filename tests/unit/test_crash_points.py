"""A process may die between any two things it does: each of these points, one by one.

A run with two tools and two steps is cut off at each of its writes and messages, before and after that took effect, and
taken over. Wherever that is, the page sees one whole run, and no tool is run twice that must not be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bf_plugin import Toolbox
from bf_plugin.engines.port import Access, StepRequest
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Destination
from bf_plugin.items import FunctionTool
from bf_plugin.journal import Journal, RunRecord, open_journal
from bf_plugin.journal.seals import SealGroup
from bf_plugin.journal.writer import Writer
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.driver import Drive, Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine, ScriptedStream, call
from bf_plugin.testing.records import a_run
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
SCRIPTS: dict[int, list[Any]] = {
    1: ["let me ", "see 😀", call("pay", "{}", "c1"), call("look", "{}", "c2")],
    2: ["it is ", "done"],
}
TEXT = "let me see 😀it is done"
THINGS = (
    "StepStore.open",
    "StepStore.name",
    "seal",
    "a message",
    "StepStore.close",
    "StepStore.start_call",
    "StepStore.finish_call",
    "RunStore.decide",
    "RunStore.finish",
)
PLACES = {
    "after create",
    *(f"before {thing}" for thing in (*THINGS, "RunStore.set_told")),
    *(f"after {thing}" for thing in THINGS),
}
"""Where a process may die: between any two things of a run's life that others may see."""


class Bomb:
    """Goes off when the process comes to a point, given by place and number; from then on it does nothing more."""

    def __init__(self, point: tuple[str, int] | None) -> None:
        self._point = point
        self.passed: Counter[str] = Counter()
        self.dead = asyncio.Event()

    def ticks(self, place: str) -> bool:
        """Return whether the process is dead, from this place in its life on."""
        self.passed[place] += 1
        if (place, self.passed[place]) == self._point:
            self.dead.set()
        return self.dead.is_set()


class DyingWriter:
    """A journal's writer in a process that may die before or after each commit."""

    def __init__(self, writer: Any, bomb: Bomb) -> None:
        self._writer = writer
        self._bomb = bomb

    def commit(self, job: Callable[..., Any], key: str = "", writes: int = 1) -> Future[Any]:
        # Always by the thread: a commit is a commit, wherever it is made.
        return self._write(_name(job), lambda: Writer.commit(self._writer, job, key, writes))

    def _write(self, name: str, write: Callable[[], Future[Any]]) -> Future[Any]:
        told: Future[Any] = Future()
        if self._bomb.ticks(f"before {name}"):
            return told  # never: nobody is there to be told
        loop = asyncio.get_running_loop()
        done = write()

        def settle() -> None:
            if self._bomb.ticks(f"after {name}"):
                return
            if error := done.exception():
                told.set_exception(error)
            else:
                told.set_result(done.result())

        def tell(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the process's loop is gone: it died meanwhile
                loop.call_soon_threadsafe(settle)

        done.add_done_callback(tell)
        return told


def _name(job: Any) -> str:
    """Return which write a job is, such as `RunStore.decide`, or `seal`."""
    return "seal" if isinstance(job, SealGroup) else str(job.__qualname__).partition(".<locals>")[0]


class Page:
    """A gateway whose page gets every message that arrives, whether the sender lives to know it or not."""

    def __init__(self, delay: float) -> None:
        self.bodies: list[bytes] = []
        self.bomb = Bomb(None)
        self._delay = delay

    async def send(self, destination: Destination, message: bytes) -> None:
        if self.bomb.ticks("before a message"):
            await asyncio.Event().wait()
        self.bodies.append(message)
        await asyncio.sleep(self._delay)
        if self.bomb.ticks("after a message"):
            await asyncio.Event().wait()

    async def aclose(self) -> None:
        pass


class Provider(ScriptedEngine):
    """Answers each step by its number, however often it is asked, whether who asked lives to hear it or not."""

    def __init__(self) -> None:
        super().__init__()
        self.bomb = Bomb(None)

    async def start(self, request: StepRequest, access: Access) -> ScriptedStream:
        self.requests.append(request)
        if self.bomb.ticks("after create"):
            await asyncio.Event().wait()
        response_id = f"resp_{len(self.requests)}"
        self.responses[response_id] = SCRIPTS[request.number]
        return ScriptedStream(response_id, SCRIPTS[request.number], Usage(), "stop")


class World:
    """What survives the process: the journal's file, the page, the provider, and what tools did."""

    def __init__(self, journal: Journal, delay: float) -> None:
        self.journal = journal
        self.page = Page(delay)
        self.provider = Provider()
        self.made: list[str] = []
        self.workers = Workers("test", limit=4)

    def drive(self, record: RunRecord) -> Drive:
        manager = new_manager()
        register(manager, "tools", self._tools())
        parts = Parts(
            journal=self.journal,
            hooks=HookCalls(manager, self.workers),
            settings=Settings(coalesce_ms=0),
            pace=Pace(0),
            engine=lambda name: self.provider,
            messenger=lambda record: self.page,
        )
        ticket = Ticket()
        ticket.wait_accepted(0)
        drive = Drive(record, parts, ticket=ticket, promoted=lambda record: None)
        drive.release()
        return drive

    def _tools(self) -> Toolbox:
        tools = Toolbox("tools")

        @tools.tool()
        async def pay() -> str:
            """Pay: not to be repeated."""
            self.made.append("pay")
            return "paid"

        @tools.tool(idempotent=True)
        async def look() -> str:
            """Look."""
            self.made.append("look")
            return "seen"

        return tools


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    folder: Path = tmp_path_factory.mktemp("crash")
    opened = open_journal(f"sqlite:///{folder / 'journal.db'}", [KEY])
    yield opened
    opened.close()


def accepted(journal: Journal) -> RunRecord:
    names = ("pay", "look")
    offered = [FunctionTool(type="function", name=name, parameters={"type": "object"}) for name in names]
    return journal.runs.create(a_run(spec={"tools": offered}), new_thread=True, enqueue=False, timeout=600).result(10)


def live_until(world: World, record: RunRecord, bomb: Bomb) -> bool:
    """Drive a run in a process with a bomb; return whether it died."""
    journal = world.journal
    parts = (journal.runs, journal.steps, journal.log, journal.log._groups)
    writers = [part._writer for part in parts]

    async def scenario() -> None:
        world.page.bomb = world.provider.bomb = bomb
        for part, writer in zip(parts, writers, strict=True):
            part._writer = DyingWriter(writer, bomb)  # type: ignore[attr-defined]
        task = asyncio.ensure_future(world.drive(record).run())
        death = asyncio.ensure_future(bomb.dead.wait())
        await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        for future in (task, death):
            future.cancel()
        await asyncio.gather(task, death, return_exceptions=True)

    try:
        asyncio.run(scenario())
    finally:
        world.page.bomb = world.provider.bomb = Bomb(None)
        for part, writer in zip(parts, writers, strict=True):
            part._writer = writer  # type: ignore[attr-defined]
    return bomb.dead.is_set()


def check(world: World, record: RunRecord) -> None:
    """Assert what must hold wherever the process died."""
    seen: dict[int, dict[str, Any]] = {}
    for body in world.page.bodies:
        for event in events.events_in(body):
            assert seen.setdefault(event["seq"], event) == event, "a seq with two contents"
    assert sorted(seen) == list(range(1, len(seen) + 1)), "a hole"
    kinds = [seen[seq]["type"] for seq in sorted(seen)]
    assert kinds[0] == "threadInfo"
    assert kinds.count("end") == 1
    assert kinds[-1] == "end"
    assert kinds.count("function_call") == 1
    assert "".join(seen[seq]["content"] for seq in sorted(seen) if seen[seq]["type"] == "delta") == TEXT
    assert world.made.count("pay") <= 1, "a tool that must not be repeated"
    now = world.journal.runs.find(record.id)
    assert now is not None
    assert (now.state, now.outcome) == ("ended", "completed")
    items: list[Any] = list(world.journal.runs.thread_items(record.thread_id))
    assert [item.get("role") or item["call_id"] for item in items] == [
        "user", "assistant", "c1", "c2", "c1", "c2", "assistant",
    ]  # fmt: skip
    outputs = [item["output"] for item in items if item["type"] == "function_output"]
    assert outputs[0] == "paid" or "may have taken effect" in outputs[0]
    assert outputs[1] == "seen"


@pytest.mark.parametrize("delay", [0.0, 0.03], ids=["messages keep pace", "messages lag behind"])
def test_every_point_at_which_a_process_can_die(journal: Journal, delay: float) -> None:
    """The run is whole after a takeover from any of them, also when the gateway takes messages slowly."""
    whole = Bomb(None)
    live_until(World(journal, delay), accepted(journal), whole)
    points = [(place, number + 1) for place, times in whole.passed.items() for number in range(times)]
    assert whole.passed.keys() >= PLACES
    died = set()
    for point in points:
        world = World(journal, delay)
        record = accepted(journal)
        if live_until(world, record, Bomb(point)):
            died.add(point[0])
        adopted = journal.runs.adopt(record.id, 1, "other").result(5)
        if adopted is not None:
            asyncio.run(asyncio.wait_for(world.drive(adopted).run(), 20))
        check(world, record)
    print(f"{len(points)} points")
    assert died >= PLACES
