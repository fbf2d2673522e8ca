"""Rows of steps and tool calls, and the items they add to the thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from bf_plugin import events
from bf_plugin.items import FunctionCall, Item
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, fence_undecided
from bf_plugin.journal.records import Opened
from bf_plugin.journal.runs import decode_usage, encode_usage
from bf_plugin.journal.signals import signal_driver
from bf_plugin.journal.tables import calls, items, runs, steps, threads, unfinished
from bf_plugin.values import FinishReason, Usage

Place = tuple[int, int]
"""Where a call stands in its run: step number, position in the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A tool call as the journal has it; `output` is None until it is done."""

    place: Place
    call_id: str
    name: str
    state: str
    arguments: str = field(repr=False)
    output: str | None = field(default=None, repr=False)
    tool_call_id: str | None = field(default=None, repr=False)
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step as the journal has it: the state it began with, its handle once the provider named it, how it ended."""

    number: int
    state: str
    started_at: float
    ended_at: float | None
    usage: Usage
    parent: Mapping[str, Any] | None = field(repr=False)
    handle: Mapping[str, Any] | None = field(repr=False)
    content: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    finish_reason: FinishReason = "stop"


class StepStore(Base):
    """Steps and calls of runs."""

    def open(
        self, run_id: str, epoch: int, number: int, *, thread_id: str, engine_key: str, fresh: Sequence[Item]
    ) -> Future[Opened]:
        """Put a step on record before the provider is asked; `fresh` items join the thread.

        Returns what the provider has (`state`, None if it is another engine's) and what it lacks (`new`).
        Raises Fenced, Decided.
        """
        sealed = [self.vault.seal(item) for item in fresh]

        def job(connection: Connection) -> Opened:
            fence_undecided(connection, run_id, epoch)
            _add_items(connection, thread_id, run_id, sealed)
            thread = connection.execute(select(threads).where(threads.c.id == thread_id)).one()
            known = thread.engine_key == engine_key and thread.state_sealed is not None
            synced = thread.synced if known else 0
            parent = thread.state_sealed if known else None
            row = {"run_id": run_id, "number": number, "state": "creating", "started_at": time.time()}
            connection.execute(insert(steps).values(**row, parent_sealed=parent))
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def reopen(self, run_id: str, epoch: int, number: int, *, thread_id: str, engine_key: str) -> Future[Opened]:
        """Put a step back to `creating`: what an earlier driver asked for is lost. Raises Fenced, Decided."""

        def job(connection: Connection) -> Opened:
            fence_undecided(connection, run_id, epoch)
            thread = connection.execute(select(threads).where(threads.c.id == thread_id)).one()
            synced = thread.synced if thread.engine_key == engine_key and thread.state_sealed is not None else 0
            mine = (steps.c.run_id == run_id, steps.c.number == number)
            connection.execute(update(steps).where(*mine).values(state="creating", handle_sealed=None))
            parent = connection.execute(select(steps.c.parent_sealed).where(*mine)).scalar_one()
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def name(self, run_id: str, epoch: int, number: int, handle: Mapping[str, Any]) -> Future[None]:
        """Put the provider's name of a step on record: nothing of it may be sealed before. Raises Fenced."""
        sealed = self.vault.seal(dict(handle))

        def job(connection: Connection) -> None:
            fence(connection, run_id, epoch)
            mine = (steps.c.run_id == run_id, steps.c.number == number)
            connection.execute(update(steps).where(*mine).values(state="named", handle_sealed=sealed))
            starting = update(runs).where(runs.c.id == run_id, runs.c.state == "starting")
            connection.execute(starting.values(state="active"))

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

        Raises Fenced, Decided.
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
                "state": "pending",
                "arguments_sealed": self.vault.seal(call["arguments"]),
            }
            for position, call in enumerate(asked)
        ]

        def job(connection: Connection) -> None:
            fence_undecided(connection, run_id, epoch, progress=True)
            _add_items(connection, thread_id, run_id, sealed)
            newest = connection.execute(select(func.max(items.c.id)).where(items.c.thread_id == thread_id)).scalar()
            sync = {"engine_key": engine_key, "state_sealed": state_sealed, "synced": newest or 0}
            connection.execute(update(threads).where(threads.c.id == thread_id).values(**sync))
            mine = (steps.c.run_id == run_id, steps.c.number == number)
            done = {"state": "done", "ended_at": time.time(), "usage": encode_usage(usage), "ended_sealed": ended}
            connection.execute(update(steps).where(*mine).values(**done))
            if pending:
                connection.execute(insert(calls), pending)

        return self.write(job, run_id)

    def start_call(
        self, run_id: str, epoch: int, place: Place, *, tool_call_id: str | None = None, deadline: float | None = None
    ) -> Future[None]:
        """Mark a call `started`, before its tool is run or asked for. Raises Fenced, Decided."""

        def job(connection: Connection) -> None:
            fence_undecided(connection, run_id, epoch)
            started = {"state": "started", "tool_call_id": tool_call_id, "deadline": deadline}
            pending = update(calls).where(*_at(run_id, place), calls.c.state == "pending")
            connection.execute(pending.values(**started))

        return self.write(job, run_id)

    def finish_call(self, run_id: str, epoch: int, place: Place, output: str) -> Future[str]:
        """Mark a call `done`; returns its output, another one if an answer was on record first. Raises Fenced."""
        sealed = self.vault.seal(output)

        def job(connection: Connection) -> str:
            fence(connection, run_id, epoch)
            mine = _at(run_id, place)
            undone = update(calls).where(*mine, calls.c.state != "done")
            if connection.execute(undone.values(state="done", result_sealed=sealed)).rowcount == 1:
                return output
            stored = connection.execute(select(calls.c.result_sealed).where(*mine)).scalar_one()
            return str(self.vault.open(stored))

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
            waiting = (calls.c.tool_call_id == tool_call_id, calls.c.state == "started", calls.c.run_id == open_run)
            in_time = update(calls).where(*waiting, calls.c.deadline > time.time())
            won = connection.execute(in_time.values(state="done", result_sealed=sealed)).rowcount == 1
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
                place=(row.step, row.position),
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
        driven = (runs.c.owner == owner, unfinished, runs.c.state == "active")
        query = select(calls.c.run_id, calls.c.tool_call_id).join(runs, runs.c.id == calls.c.run_id)
        answers = query.where(*driven, calls.c.state == "done", calls.c.tool_call_id.is_not(None))
        return self.read(lambda connection: [(row.run_id, row.tool_call_id) for row in connection.execute(answers)])

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
        query = select(items.c.item_sealed).where(items.c.thread_id == thread_id, items.c.id > synced)
        rows = connection.execute(query.order_by(items.c.id)).scalars().all()
        return [self.vault.open(item) for item in rows]


def _storable(text: str) -> str:
    """Return what a model wrote as a column takes it: well formed, and without the NUL that Postgres refuses."""
    return events.well_formed(text).replace("\0", "\ufffd")


def _at(run_id: str, place: Place) -> tuple[Any, Any, Any]:
    return calls.c.run_id == run_id, calls.c.step == place[0], calls.c.position == place[1]


def _add_items(connection: Connection, thread_id: str, run_id: str, sealed: Sequence[bytes]) -> None:
    if sealed:
        rows = [{"thread_id": thread_id, "run_id": run_id, "item_sealed": item} for item in sealed]
        connection.execute(insert(items), rows)
