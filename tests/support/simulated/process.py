"""One process of a deployment: its journal, loop, dispatcher and use cases, real but for threads and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from bf_plugin import hookimpl
from bf_plugin.dispatch.local import LocalDispatcher
from bf_plugin.dispatch.owner import Owner
from bf_plugin.errors import JournalError
from bf_plugin.journal import Journal, RunRecord
from bf_plugin.journal.seals import Groups
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.journal.writer import Writer
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.run.driver import Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.usecases.admission import Admission
from bf_plugin.usecases.start import Starts
from bf_plugin.usecases.stop import Stops
from bf_plugin.values import Delta, Outcome, Run
from simulated.clock import Clock, SteppedLoop, SteppedLoopThread
from simulated.gateway import Wire
from simulated.ledger import Ledger
from simulated.provider import Line
from simulated.tools import Tools
from simulated.writer import SteppedWriter

T = TypeVar("T")
Writing = Literal["patient", "eager", "direct"]
WRITING: tuple[Writing, ...] = get_args(Writing)

STORES = ("runs", "steps", "log", "keys", "owners", "plugin_values", "overview", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What processes share, and what survives them. `is_alive` tells of owners, `wake` tells them of news."""

    clock: Clock
    settings: Settings
    engine: Line
    messenger: Wire
    hooks: HookCalls
    ledger: Ledger
    is_alive: Callable[[str], bool]
    wake: Callable[[Collection[str]], None]
    open_journal: Callable[[], Journal]


class Process:
    """Does one thing a `turn`; when `fuel` is used up it stands still.

    `writing` says who comes first, its loop or its writer ("eager"), and whether its loop seals by itself ("direct").
    """

    def __init__(self, owner: str, around: Surroundings, *, writing: Writing) -> None:
        self.owner = owner
        self.writing = writing
        self.fuel: int | None = None
        self.alive = True
        self.woken = True
        self._around = around
        self.loop = SteppedLoop(around.clock, around.ledger.blame)
        self.journal = around.open_journal()
        self._writer = self._take_over_writing()
        thread: Any = SteppedLoopThread(self.loop, self._push)
        mark: Any = Mark(owner, around.is_alive)
        parts = Parts(
            journal=self.journal,
            hooks=around.hooks,
            settings=around.settings,
            pace=Pace(around.settings.coalesce_ms / 1000),
            engine=lambda name: around.engine,
            messenger=lambda record: around.messenger,
        )
        self.dispatcher = LocalDispatcher(thread, parts, cast("Owner", mark), cast("SqliteFile", self.journal.database))
        self.stops = Stops(journal=self.journal, dispatcher=self.dispatcher)
        self.starts = Front(
            settings=around.settings,
            runs=self.journal.runs,
            dispatcher=self.dispatcher,
            hooks=parts.hooks,
            engines={"scripted": around.engine},
            host_messaging=False,
            admission=Admission(max_runs=around.settings.max_runs, max_waiters=100, active=self.dispatcher.active),
            stops=self.stops,
        )

    @property
    def stands(self) -> bool:
        """Whether it does nothing, for now or for ever."""
        return self.fuel == 0 or not self.alive

    def turn(self) -> bool:
        """Do one thing, if there is something to do."""
        if self.stands:
            return False
        done = (self.writing == "eager" and self._writer.advance(1)) or self.loop.turn() or self._writer.advance()
        if done and self.fuel:
            self.fuel -= 1
        return done

    def watch(self) -> bool:
        """Look at what others have written, as the watcher's thread does when it was woken; False if it was not."""
        if self.stands or not self.woken:
            return False
        self.woken = False
        self.dispatcher._look()
        return True

    def sweep(self) -> None:
        """Take the runs of dead processes."""
        self.dispatcher._sweep()

    def usurp(self, run_id: str, epoch: int) -> None:
        """Take a run over, whoever drives it."""
        with contextlib.suppress(JournalError):
            self.dispatcher._take_over((run_id, epoch))

    def leave(self) -> None:
        """End politely: hand all runs over."""
        self.fuel = None
        self.dispatcher.close()
        self._writer.advance()
        self._vanish()

    def die(self) -> None:
        """Vanish: what is not committed is lost, nothing more is sent or heard."""
        self._vanish()

    def _vanish(self) -> None:
        self.alive = False
        self.loop.dead = self._writer.dead = True
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            while self.loop.turn():
                pass
        self.loop.close()
        self.journal.close()

    def _push(self) -> bool:
        return self.loop.turn() or self._writer.advance()

    def _take_over_writing(self) -> SteppedWriter:
        engine = self.journal._engines[0]
        direct = self.writing == "direct" and engine.dialect.name == "sqlite"
        writer = SteppedWriter(engine, self._around.ledger, self._around.wake, direct=direct)
        former: Writer = self.journal._writer
        former.close()
        for store in STORES:
            getattr(self.journal, store)._writer = writer
        self.journal.log._groups = Groups(writer)
        self.journal._writer = writer
        return writer


class Front(Starts):
    """Starts, but for waiting: a test is the request that waits."""

    def _wait(self, ticket: Ticket, *, stream: bool, may_wait: bool, record: RunRecord) -> FullEnding | None:
        return None


class Mark:
    """Tells whether processes live, in place of file locks."""

    def __init__(self, owner: str, is_alive: Callable[[str], bool]) -> None:
        self.id = owner
        self.is_alive = is_alive

    def was_touched(self) -> bool:
        """Nobody asks: there is no watcher's thread."""
        return False

    def sweep(self) -> None:
        """There is nothing to clear."""

    def release(self) -> None:
        """It is taken for dead when it has left."""


class InPlace(Workers):
    """Worker threads that are none: what they are given is done at once."""

    def submit(self, function: Callable[..., T], *args: Any, owner: str = "") -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class Guard:
    """A plugin that changes text and holds its end back."""

    @hookimpl
    def on_delta(self, run: Run, delta: Delta) -> None:
        text = run.scratch.get("held", "") + delta.text.upper()
        cut = len(text) if delta.final else len(text) - 1
        delta.text, run.scratch["held"] = text[:cut], text[max(cut, 0) :]


class Listener:
    """A plugin that hears of ends."""

    def __init__(self, told: Callable[[str, Outcome], None]) -> None:
        self._told = told

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, SteppedLoop) and not loop.dead:
            self._told(run.id, outcome)


def hooks(tools: Tools, told: Callable[[str, Outcome], None], *, guarded: bool) -> HookCalls:
    """Return the plugins of all processes; with `guarded` there is one that changes text."""
    manager = new_manager()
    register(manager, "tools", tools.toolbox())
    register(manager, "listener", Listener(told))
    if guarded:
        register(manager, "guard", Guard())
    return HookCalls(manager, InPlace("here", limit=1))
