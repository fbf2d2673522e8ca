"""Rows of steps and tool calls, and the items they add to the thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection

from bf_plugin.items import FunctionCall, Item
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, fence_open, signal_driver
from bf_plugin.journal.records import CallKey, CallRecord, Opened, StepRecord
from bf_plugin.journal.runs import add_items, decode_usage, encode_usage
from bf_plugin.journal.sql import Statement, insertion
from bf_plugin.journal.states import ACTIVE, CREATING, DONE, NAMED, PENDING, STARTED, STARTING
from bf_plugin.runtime.text import well_formed
from bf_plugin.values import FinishReason, Usage

_THREAD = Statement("SELECT engine_key, state_sealed, synced FROM bf_threads WHERE id = :thread_id")
_ITEMS_AFTER = Statement(
    "SELECT item_sealed FROM bf_items WHERE thread_id = :thread_id AND id > :synced ORDER BY id",
)
_NEWEST_ITEM = Statement("SELECT max(id) FROM bf_items WHERE thread_id = :thread_id")
_SYNC = Statement(
    """
    UPDATE bf_threads SET engine_key = :engine_key, state_sealed = :state, synced = :newest
    WHERE id = :thread_id
    """
)
_NEW_STEP = insertion("bf_steps", "run_id", "number", "state", "started_at", "parent_sealed")
_REOPEN = Statement(
    f"UPDATE bf_steps SET state = {CREATING!r}, handle_sealed = NULL WHERE run_id = :run_id AND number = :number"
)
_PARENT = Statement("SELECT parent_sealed FROM bf_steps WHERE run_id = :run_id AND number = :number")
_NAME = Statement(
    f"UPDATE bf_steps SET state = {NAMED!r}, handle_sealed = :handle WHERE run_id = :run_id AND number = :number"
)
_ACTIVATE = Statement(f"UPDATE bf_runs SET state = {ACTIVE!r} WHERE id = :run_id AND state = {STARTING!r}")
_CLOSE = Statement(
    f"""
    UPDATE bf_steps SET state = {DONE!r}, ended_at = :now, usage = :usage, ended_sealed = :ended
    WHERE run_id = :run_id AND number = :number
    """
)
_STEPS = Statement("SELECT * FROM bf_steps WHERE run_id = :run_id ORDER BY number")
_NEW_CALL = insertion("bf_calls", "run_id", "call_id", "step", "position", "name", "state", "arguments_sealed")
_CALL = "run_id = :run_id AND step = :step AND position = :position"
_START_CALL = Statement(
    f"""
    UPDATE bf_calls SET state = {STARTED!r}, tool_call_id = :tool_call_id, deadline = :deadline
    WHERE {_CALL} AND state = {PENDING!r}
    """
)
_FINISH_CALL = Statement(
    f"UPDATE bf_calls SET state = {DONE!r}, result_sealed = :result WHERE {_CALL} AND state != {DONE!r}"
)
_RESULT = Statement(f"SELECT result_sealed FROM bf_calls WHERE {_CALL}")
_RUN_OF_CALL = Statement("SELECT run_id FROM bf_calls WHERE tool_call_id = :tool_call_id")
_ANSWER_CALL = Statement(
    f"""
    UPDATE bf_calls SET state = {DONE!r}, result_sealed = :result
    WHERE tool_call_id = :tool_call_id AND state = {STARTED!r} AND deadline > :now
    AND run_id = (SELECT id FROM bf_runs WHERE id = :run_id AND outcome IS NULL)
    """
)
_CALLS = Statement("SELECT * FROM bf_calls WHERE run_id = :run_id AND step = :step ORDER BY position")
_ANSWERED = Statement(
    f"""
    SELECT bf_calls.run_id, bf_calls.tool_call_id FROM bf_calls JOIN bf_runs ON bf_runs.id = bf_calls.run_id
    WHERE bf_runs.owner = :owner AND bf_runs.told = 0 AND bf_runs.state = {ACTIVE!r}
    AND bf_calls.state = {DONE!r} AND bf_calls.tool_call_id IS NOT NULL
    """
)


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
            fence_open(connection, run_id, epoch)
            add_items(connection, thread_id, run_id, sealed)
            parent, synced = _state_of(connection, thread_id, engine_key)
            row = {"run_id": run_id, "number": number, "state": CREATING, "started_at": time.time()}
            _NEW_STEP.run(connection, **row, parent_sealed=parent)
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def reopen(self, run_id: str, epoch: int, number: int, *, thread_id: str, engine_key: str) -> Future[Opened]:
        """Put a step back to `creating`: what an earlier driver asked for is lost. Raises Fenced, RunEnded."""

        def job(connection: Connection) -> Opened:
            fence_open(connection, run_id, epoch)
            _, synced = _state_of(connection, thread_id, engine_key)
            _REOPEN.run(connection, run_id=run_id, number=number)
            parent = _PARENT.value(connection, run_id=run_id, number=number)
            new = self._items_after(connection, thread_id, synced)
            return Opened(state=self.vault.open(parent), synced=synced, new=new)

        return self.write(job, run_id)

    def name(self, run_id: str, epoch: int, number: int, handle: Mapping[str, Any]) -> Future[None]:
        """Put the provider's name of a step on record: nothing of it may be sealed before. Raises Fenced."""
        sealed = self.vault.seal(dict(handle))

        def job(connection: Connection) -> None:
            fence(connection, run_id, epoch)
            _NAME.run(connection, run_id=run_id, number=number, handle=sealed)
            _ACTIVATE.run(connection, run_id=run_id)

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
            fence_open(connection, run_id, epoch, progress=True)
            add_items(connection, thread_id, run_id, sealed)
            newest = _NEWEST_ITEM.value(connection, thread_id=thread_id) or 0
            _SYNC.run(connection, thread_id=thread_id, engine_key=engine_key, state=state_sealed, newest=newest)
            spent = encode_usage(usage)
            _CLOSE.run(connection, run_id=run_id, number=number, now=time.time(), usage=spent, ended=ended)
            _NEW_CALL.run_each(connection, pending)

        return self.write(job, run_id)

    def start_call(
        self, run_id: str, epoch: int, key: CallKey, *, tool_call_id: str | None = None, deadline: float | None = None
    ) -> Future[None]:
        """Mark a call `started`, before its tool is run or asked for. Raises Fenced, RunEnded."""

        def job(connection: Connection) -> None:
            fence_open(connection, run_id, epoch)
            _START_CALL.run(connection, **_at(run_id, key), tool_call_id=tool_call_id, deadline=deadline)

        return self.write(job, run_id)

    def finish_call(self, run_id: str, epoch: int, key: CallKey, output: str) -> Future[str]:
        """Mark a call `done`; returns its output, another one if an answer was on record first. Raises Fenced."""
        sealed = self.vault.seal(output)

        def job(connection: Connection) -> str:
            fence(connection, run_id, epoch)
            mine = _at(run_id, key)
            if _FINISH_CALL.run(connection, **mine, result=sealed) == 1:
                return output
            return str(self.vault.open(_RESULT.value(connection, **mine)))

        return self.write(job, run_id)

    def answer(self, tool_call_id: str, output: str) -> Future[tuple[str, bool] | None]:
        """Record a page's answer to a call.

        Returns the run and whether this answer is the first (before the timeout and the run's outcome), None for an
        unknown call.
        """
        sealed = self.vault.seal(output)

        def job(connection: Connection) -> tuple[str, bool] | None:
            run_id = _RUN_OF_CALL.value(connection, tool_call_id=tool_call_id)
            if run_id is None:
                return None
            values = {"tool_call_id": tool_call_id, "run_id": run_id, "now": time.time(), "result": sealed}
            won = _ANSWER_CALL.run(connection, **values) == 1
            if won:
                signal_driver(connection, run_id)
            return run_id, won

        return self.write(job)

    def has_call(self, tool_call_id: str) -> bool:
        """Tell whether a page was ever asked under this id."""
        return self.read(lambda connection: _RUN_OF_CALL.row(connection, tool_call_id=tool_call_id)) is not None

    def calls_of(self, run_id: str, number: int) -> list[CallRecord]:
        """Return the calls of a step, in the model's order."""
        rows = self.read(lambda connection: _CALLS.rows(connection, run_id=run_id, step=number))
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
        return [self._step(row) for row in self.read(lambda connection: _STEPS.rows(connection, run_id=run_id))]

    def answered(self, owner: str) -> Sequence[tuple[str, str]]:
        """Return run and tool call id of pages' answers on record, for runs that `owner` drives."""
        return self.read(lambda connection: _ANSWERED.rows(connection, owner=owner))

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
        rows = _ITEMS_AFTER.rows(connection, thread_id=thread_id, synced=synced)
        return [self.vault.open(row.item_sealed) for row in rows]


def _storable(text: str) -> str:
    """Return what a model wrote as a column takes it: well formed, and without the NUL that Postgres refuses."""
    return well_formed(text).replace("\0", "\ufffd")


def _at(run_id: str, key: CallKey) -> dict[str, Any]:
    return {"run_id": run_id, "step": key[0], "position": key[1]}


def _state_of(connection: Connection, thread_id: str, engine_key: str) -> tuple[bytes | None, int]:
    """Return what this engine remembers of a thread, sealed, and the newest item that covers; None, 0 without."""
    found = _THREAD.row(connection, thread_id=thread_id)
    if found is None or found.engine_key != engine_key or found.state_sealed is None:
        return None, 0
    return found.state_sealed, found.synced
