"""Rows of steps and tool calls, and the items they add to the thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from bf_plugin.gateway import events
from bf_plugin.items import FunctionCall, Item
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, fence_undecided
from bf_plugin.journal.prepared import Prepared, insert_of
from bf_plugin.journal.records import Opened
from bf_plugin.journal.runs import decode_usage, encode_usage
from bf_plugin.journal.signals import signal_driver
from bf_plugin.journal.states import (
    ACTIVE,
    CREATING,
    DONE,
    NAMED,
    PENDING,
    STARTED,
    STARTING,
    CallState,
    StepState,
)
from bf_plugin.journal.tables import calls, items, runs, steps, threads, unfinished
from bf_plugin.values import FinishReason, Usage

CallKey = tuple[int, int]
"""Tells a call of a run from the others: step number, position in the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A tool call as the journal has it; `output` is None until it is done."""

    key: CallKey
    call_id: str
    name: str
    state: CallState
    arguments: str = field(repr=False)
    output: str | None = field(default=None, repr=False)
    tool_call_id: str | None = field(default=None, repr=False)
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step as the journal has it: the state it began with, its handle once the provider named it, how it ended."""

    number: int
    state: StepState
    started_at: float
    ended_at: float | None
    usage: Usage
    parent: Mapping[str, Any] | None = field(repr=False)
    handle: Mapping[str, Any] | None = field(repr=False)
    content: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    finish_reason: FinishReason = "stop"


_step = (steps.c.run_id == bindparam("in_run"), steps.c.number == bindparam("at"))
_call = (
    calls.c.run_id == bindparam("in_run"),
    calls.c.step == bindparam("in_step"),
    calls.c.position == bindparam("at"),
)

_NEW_ITEM = insert_of(items, "thread_id", "run_id", "item_sealed")
_THREAD = Prepared(
    select(threads.c.engine_key, threads.c.state_sealed, threads.c.synced).where(threads.c.id == bindparam("thread_id"))
)
_ITEMS_AFTER = Prepared(
    select(items.c.item_sealed)
    .where(items.c.thread_id == bindparam("thread_id"), items.c.id > bindparam("synced"))
    .order_by(items.c.id)
)
_NEWEST_ITEM = Prepared(select(func.max(items.c.id)).where(items.c.thread_id == bindparam("thread_id")))
_SYNC = Prepared(
    update(threads)
    .where(threads.c.id == bindparam("thread_id"))
    .values(engine_key=bindparam("whose"), state_sealed=bindparam("state"), synced=bindparam("upto"))
)
_NEW_STEP = insert_of(steps, "run_id", "number", "state", "started_at", "parent_sealed")
_NAME = Prepared(update(steps).where(*_step).values(state=NAMED, handle_sealed=bindparam("handle")))
_ACTIVE = Prepared(update(runs).where(runs.c.id == bindparam("in_run"), runs.c.state == STARTING).values(state=ACTIVE))
_DONE = Prepared(
    update(steps)
    .where(*_step)
    .values(state=DONE, ended_at=bindparam("now"), usage=bindparam("used"), ended_sealed=bindparam("how"))
)
_NEW_CALL = insert_of(calls, "run_id", "call_id", "step", "position", "name", "state", "arguments_sealed")
_START_CALL = Prepared(
    update(calls)
    .where(*_call, calls.c.state == PENDING)
    .values(state=STARTED, tool_call_id=bindparam("page_id"), deadline=bindparam("until"))
)
_FINISH_CALL = Prepared(
    update(calls).where(*_call, calls.c.state != DONE).values(state=DONE, result_sealed=bindparam("result"))
)
_ANSWERED = Prepared(
    select(calls.c.run_id, calls.c.tool_call_id)
    .join(runs, runs.c.id == calls.c.run_id)
    .where(runs.c.owner == bindparam("owner"), unfinished, runs.c.state == ACTIVE)
    .where(calls.c.state == DONE, calls.c.tool_call_id.is_not(None))
)
_RESULT = Prepared(select(calls.c.result_sealed).where(*_call))


class StepStore(Base):
    """Steps and calls of runs."""

    def open(
        self, run_id: str, epoch: int, number: int, *, thread_id: str, engine_key: str, fresh: Sequence[Item]
    ) -> Future[Opened]:
        """Put a step on record before the provider is asked; `fresh` items join the thread.

        Returns what the provider has (`state`, None if it is another engine's) and what it lacks (`new`).
        Raises Fenced, RunEnded.
        """
        sealed = [self.vault.seal(item) for item in fresh]

        def job(connection: Connection) -> Opened:
            fence_undecided(connection, run_id, epoch)
            _add_items(connection, thread_id, run_id, sealed)
            parent, synced = _state_of(connection, thread_id, engine_key)
            row = {"run_id": run_id, "number": number, "state": CREATING, "started_at": time.time()}
            _NEW_STEP.execute(connection, {**row, "parent_sealed": parent})
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def reopen(self, run_id: str, epoch: int, number: int, *, thread_id: str, engine_key: str) -> Future[Opened]:
        """Put a step back to `creating`: what an earlier driver asked for is lost. Raises Fenced, RunEnded."""

        def job(connection: Connection) -> Opened:
            fence_undecided(connection, run_id, epoch)
            _, synced = _state_of(connection, thread_id, engine_key)
            mine = (steps.c.run_id == run_id, steps.c.number == number)
            connection.execute(update(steps).where(*mine).values(state=CREATING, handle_sealed=None))
            parent = connection.execute(select(steps.c.parent_sealed).where(*mine)).scalar_one()
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def name(self, run_id: str, epoch: int, number: int, handle: Mapping[str, Any]) -> Future[None]:
        """Put the provider's name of a step on record: nothing of it may be sealed before. Raises Fenced."""
        sealed = self.vault.seal(dict(handle))

        def job(connection: Connection) -> None:
            fence(connection, run_id, epoch)
            _NAME.execute(connection, {"in_run": run_id, "at": number, "handle": sealed})
            _ACTIVE.execute(connection, {"in_run": run_id})

        return self.write(job, run_id)

    def close(
        self,
        run_id: str,
        epoch: int,
        number: int,
        *,
        thread_id: str,
        engine_key: str,
        state: Mapping[str, Any] | None,
        produced: Sequence[Item],
        asked: Sequence[FunctionCall],
        content: Sequence[Mapping[str, Any]],
        finish_reason: FinishReason,
        usage: Usage,
    ) -> Future[None]:
        """Put a finished response on record: its items, its calls, the engine's state behind it.

        Raises Fenced, RunEnded.
        """
        sealed = [self.vault.seal(item) for item in produced]
        state_sealed = None if state is None else self.vault.seal(dict(state))
        ended = self.vault.seal((list(content), finish_reason))
        pending = [
            {
                "run_id": run_id,
                "call_id": _storable(call["call_id"]),
                "step": number,
                "position": position,
                "name": _storable(call["name"]),
                "state": PENDING,
                "arguments_sealed": self.vault.seal(call["arguments"]),
            }
            for position, call in enumerate(asked)
        ]

        def job(connection: Connection) -> None:
            fence_undecided(connection, run_id, epoch, progress=True)
            _add_items(connection, thread_id, run_id, sealed)
            thread = {"thread_id": thread_id}
            newest = _NEWEST_ITEM.value(connection, thread) or 0
            _SYNC.execute(connection, {**thread, "whose": engine_key, "state": state_sealed, "upto": newest})
            done = {"in_run": run_id, "at": number, "now": time.time(), "used": encode_usage(usage), "how": ended}
            _DONE.execute(connection, done)
            _NEW_CALL.execute_each(connection, pending)

        return self.write(job, run_id)

    def start_call(
        self, run_id: str, epoch: int, key: CallKey, *, tool_call_id: str | None = None, deadline: float | None = None
    ) -> Future[None]:
        """Mark a call `started`, before its tool is run or asked for. Raises Fenced, RunEnded."""

        def job(connection: Connection) -> None:
            fence_undecided(connection, run_id, epoch)
            _START_CALL.execute(connection, {**_at(run_id, key), "page_id": tool_call_id, "until": deadline})

        return self.write(job, run_id)

    def finish_call(self, run_id: str, epoch: int, key: CallKey, output: str) -> Future[str]:
        """Mark a call `done`; returns its output, another one if an answer was on record first. Raises Fenced."""
        sealed = self.vault.seal(output)

        def job(connection: Connection) -> str:
            fence(connection, run_id, epoch)
            mine = _at(run_id, key)
            if _FINISH_CALL.execute(connection, {**mine, "result": sealed}) == 1:
                return output
            return str(self.vault.open(_RESULT.value(connection, mine)))

        return self.write(job, run_id)

    def answer(self, tool_call_id: str, output: str) -> Future[tuple[str, bool] | None]:
        """Record a page's answer to a call.

        Returns the run and whether this answer is the first (before the time-out and the run's outcome), None for an
        unknown call.
        """
        sealed = self.vault.seal(output)

        def job(connection: Connection) -> tuple[str, bool] | None:
            query = select(calls.c.run_id).where(calls.c.tool_call_id == tool_call_id)
            run_id = connection.execute(query).scalar()
            if run_id is None:
                return None
            open_run = select(runs.c.id).where(runs.c.id == run_id, runs.c.outcome.is_(None)).scalar_subquery()
            waiting = (calls.c.tool_call_id == tool_call_id, calls.c.state == STARTED, calls.c.run_id == open_run)
            in_time = update(calls).where(*waiting, calls.c.deadline > time.time())
            won = connection.execute(in_time.values(state=DONE, result_sealed=sealed)).rowcount == 1
            if won:
                signal_driver(connection, run_id)
            return run_id, won

        return self.write(job)

    def has_call(self, tool_call_id: str) -> bool:
        """Tell whether a page was ever asked under this id."""
        query = select(calls.c.run_id).where(calls.c.tool_call_id == tool_call_id)
        return self.read(lambda connection: connection.execute(query).first()) is not None

    def calls_of(self, run_id: str, number: int) -> list[CallRecord]:
        """Return the calls of a step, in the model's order."""
        query = select(calls).where(calls.c.run_id == run_id, calls.c.step == number).order_by(calls.c.position)
        rows = self.read(lambda connection: connection.execute(query).all())
        return [
            CallRecord(
                key=(row.step, row.position),
                call_id=row.call_id,
                name=row.name,
                state=row.state,
                arguments=self.vault.open(row.arguments_sealed),
                output=self.vault.open(row.result_sealed),
                tool_call_id=row.tool_call_id,
                deadline=row.deadline,
            )
            for row in rows
        ]

    def all(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run, in order."""
        query = select(steps).where(steps.c.run_id == run_id).order_by(steps.c.number)
        rows = self.read(lambda connection: connection.execute(query).all())
        return [self._step(row) for row in rows]

    def answered(self, owner: str) -> Sequence[tuple[str, str]]:
        """Return run and tool call id of pages' answers on record, for runs that `owner` drives."""
        rows = self.read(lambda connection: _ANSWERED.rows(connection, {"owner": owner}))
        return [(run_id, tool_call_id) for run_id, tool_call_id in rows]

    def _step(self, row: Any) -> StepRecord:
        ended: tuple[Sequence[Any], FinishReason] = self.vault.open(row.ended_sealed) or ((), "stop")
        return StepRecord(
            number=row.number,
            state=row.state,
            started_at=row.started_at,
            ended_at=row.ended_at,
            usage=decode_usage(row.usage),
            parent=self.vault.open(row.parent_sealed),
            handle=self.vault.open(row.handle_sealed),
            content=ended[0],
            finish_reason=ended[1],
        )

    def _items_after(self, connection: Connection, thread_id: str, synced: int) -> list[Item]:
        rows = _ITEMS_AFTER.rows(connection, {"thread_id": thread_id, "synced": synced})
        return [self.vault.open(item) for (item,) in rows]


def _storable(text: str) -> str:
    """Return what a model wrote as a column takes it: well formed, and without the NUL that Postgres refuses."""
    return events.well_formed(text).replace("\0", "\ufffd")


def _at(run_id: str, key: CallKey) -> dict[str, Any]:
    return {"in_run": run_id, "in_step": key[0], "at": key[1]}


def _state_of(connection: Connection, thread_id: str, engine_key: str) -> tuple[bytes | None, int]:
    """Return what this engine remembers of a thread, sealed, and the newest item that covers; None, 0 without."""
    found = _THREAD.row(connection, {"thread_id": thread_id})
    whose, state, synced = found or (None, None, 0)
    return (state, synced) if whose == engine_key and state is not None else (None, 0)


def _add_items(connection: Connection, thread_id: str, run_id: str, sealed: Sequence[bytes]) -> None:
    _NEW_ITEM.execute_each(
        connection, [{"thread_id": thread_id, "run_id": run_id, "item_sealed": item} for item in sealed]
    )
