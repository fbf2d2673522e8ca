"""Sealing messages: what drivers seal within a few milliseconds of each other goes into one transaction.

A group is committed on the event loop where that can be done without waiting, else it costs one hand-over to the
writer's thread and one back, however many runs it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from bf_plugin.errors import Fenced, JournalError
from bf_plugin.journal.fence import fence, fence_open
from bf_plugin.journal.records import RunEnded
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.writer import Writer

_REST = 0.002
"""Seconds after a group that the loop committed by itself; the first of a quiet time begins at once."""

_REST_HANDED_OVER = 0.005
"""The same after one that was handed over to the thread, which costs more: there groups shall be larger."""

_COLUMNS = ("run_id", "number", "first_seq", "last_seq", "end_offset", "state", "data_sealed")
_NAMES, _VALUES = ", ".join(_COLUMNS), ", ".join(f":{name}" for name in _COLUMNS)
_SEAL = Statement(f"INSERT INTO bf_messages ({_NAMES}) VALUES ({_VALUES}) ON CONFLICT DO NOTHING")
_SEAL_FENCED = Statement(
    f"""
    INSERT INTO bf_messages ({_NAMES})
    SELECT id, {_VALUES.removeprefix(":run_id, ")} FROM bf_runs
    WHERE id = :run_id AND epoch = :epoch AND outcome IS NULL AND attempts = 0 FOR UPDATE
    ON CONFLICT DO NOTHING
    """
)
_FOUND = Statement("SELECT data_sealed FROM bf_messages WHERE run_id = :run_id AND number = :number")

Refusal = Exception | None
"""Why a message of a group was not sealed, None when it was."""


@dataclass(frozen=True, slots=True)
class Seal:
    """One message to be sealed: `row` by the names of its columns."""

    run_id: str
    epoch: int
    closing: bool
    row: dict[str, Any]

    def insert(self, connection: Connection) -> Refusal:
        """Insert it, if its driver still owns the run, and the run has no outcome or the message is of its end."""
        try:
            if self.closing:
                fence(connection, self.run_id, self.epoch)
            else:
                fence_open(connection, self.run_id, self.epoch, progress=True)
        except (Fenced, RunEnded) as refusal:
            return refusal
        if _SEAL.run(connection, **self.row) != 1:
            return JournalError(f"message {self.row['number']} of the run is sealed already")
        return None

    def is_inserted(self, connection: Connection) -> bool:
        """Tell whether this very message is on record: no two are encrypted alike."""
        found = _FOUND.value(connection, run_id=self.run_id, number=self.row["number"])
        return bool(found == self.row["data_sealed"])


@dataclass(frozen=True, slots=True)
class SealGroup:
    """A job that seals messages of different runs; one that is refused does not keep the others from it."""

    seals: Sequence[Seal]

    def __call__(self, connection: Connection) -> list[Refusal]:
        """Seal them, in one statement what can be: the fence of each is its condition, and locks the run's row."""
        usual = [seal for seal in self.seals if not seal.closing]
        rows = [{**seal.row, "epoch": seal.epoch} for seal in usual]
        if _SEAL_FENCED.run_each(connection, rows) == len(self.seals):
            return [None] * len(rows)
        return [None if seal.is_inserted(connection) else seal.insert(connection) for seal in self.seals]


class Groups:
    """Messages on their way to the writer. Called on the event loop only."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Seal, asyncio.Future[None]]] = []
        self._resting = False

    def add(self, seal: Seal) -> asyncio.Future[None]:
        """Have a message sealed with the next group; the future is done once that is committed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first, or after a fork or a test that had a loop of its own
            self._loop, self._waiting, self._resting = loop, [], False
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((seal, future))
        if not self._resting:
            self._resting = True
            loop.call_soon(self._begin, loop)  # after all that this turn of the loop seals
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            self._resting = False
            return
        # Two processes that lock rows in one order do not lock each other out.
        group, self._waiting = sorted(self._waiting, key=lambda waiting: waiting[0].run_id), []
        seals, futures = [seal for seal, _ in group], [future for _, future in group]
        committed = self._writer.commit(SealGroup(seals), seals[0].run_id, len(seals))
        if committed.done():
            loop.call_later(_REST, self._begin, loop)
            _settle(futures, committed)
        else:
            loop.call_later(_REST_HANDED_OVER, self._begin, loop)
            committed.add_done_callback(lambda done: _hand_back(loop, futures, done))


def _hand_back(
    loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]], committed: Future[list[Refusal]]
) -> None:
    """Give the outcomes to the loop, from the writer's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, futures, committed)


def _settle(futures: list[asyncio.Future[None]], committed: Future[list[Refusal]]) -> None:
    failed = committed.exception()
    refusals = [failed] * len(futures) if failed else committed.result()
    for future, refusal in zip(futures, refusals, strict=True):
        if future.done():
            continue  # whoever waited was cancelled
        if refusal is None:
            future.set_result(None)
        else:
            future.set_exception(refusal)
