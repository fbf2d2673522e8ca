"""What is read of runs by those who do not drive them: pages that come back, and operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, exists, func, select

from bf_plugin.items import Message
from bf_plugin.journal.base import Base
from bf_plugin.journal.runs import decode_usage
from bf_plugin.journal.states import ACCEPTED, ENDED, SEALED, CallState, RunState, StepState
from bf_plugin.journal.tables import calls, messages, runs, steps
from bf_plugin.values import FinishReason, Status, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """What of a run may be shown to an operator: no thread id, nothing that anybody wrote. Times are POSIX seconds."""

    id: str
    app: str
    state: RunState
    outcome: Status | None
    finish_reason: FinishReason | None
    owner: str | None
    attempts: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    deadline: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """One step."""

    number: int
    state: StepState
    started_at: float
    ended_at: float | None
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLine:
    """One tool call; `deadline` is there for those a page answers. `arguments` and `output` only where asked for."""

    step: int
    name: str
    state: CallState
    deadline: float | None
    arguments: str | None = field(default=None, repr=False)
    output: str | None = field(default=None, repr=False)


class Overview(Base):
    """Reads, all of them short."""

    def state(self, run_id: str) -> RunState | None:
        """Return the state of a run, None when it is gone."""
        query = select(runs.c.state).where(runs.c.id == run_id)
        state: RunState | None = self.read(lambda connection: connection.execute(query).scalar())
        return state

    def newest(self, limit: int) -> list[RunLine]:
        """Return runs that have not ended before those that have, the newest first."""
        order = ((runs.c.state == ENDED), runs.c.created_at.desc())
        return [_run(row) for row in self._rows(select(*_RUN).order_by(*order).limit(limit))]

    def run(self, run_id: str) -> RunLine | None:
        """Return one run."""
        rows = self._rows(select(*_RUN).where(runs.c.id == run_id))
        return _run(rows[0]) if rows else None

    def steps(self, run_id: str) -> list[StepLine]:
        """Return the steps of a run, in order."""
        columns = (steps.c.number, steps.c.state, steps.c.started_at, steps.c.ended_at, steps.c.usage)
        rows = self._rows(select(*columns).where(steps.c.run_id == run_id).order_by(steps.c.number))
        return [StepLine(**{**row._mapping, "usage": decode_usage(row.usage)}) for row in rows]

    def calls(self, run_id: str, *, content: bool = False) -> list[CallLine]:
        """Return the tool calls of a run, in order; with `content`, what was asked and answered too."""
        columns = [calls.c.step, calls.c.name, calls.c.state, calls.c.deadline]
        sealed = [calls.c.arguments_sealed, calls.c.result_sealed] if content else []
        query = select(*columns, *sealed).where(calls.c.run_id == run_id).order_by(calls.c.step, calls.c.position)
        return [self._call(row) for row in self._rows(query)]

    def messages(self, run_id: str) -> dict[str, int]:
        """Return how many messages a run has, by their state."""
        mine = messages.c.run_id == run_id
        newest = select(func.max(messages.c.number)).where(mine).scalar_subquery()
        ended = exists().where(runs.c.id == run_id, runs.c.state == ENDED)
        # None is sealed before the one before it was accepted, and no run ended before its last was.
        followed = (messages.c.state == SEALED) & ((messages.c.number < newest) | ended)
        state = case((followed, ACCEPTED), else_=messages.c.state).label("state")
        query = select(state, func.count().label("number")).where(mine).group_by(state)
        return {row.state: row.number for row in self._rows(query)}

    def turns(self, thread_id: str, limit: int) -> list[tuple[str, list[Message]]]:
        """Return the newest `limit` runs of a thread, oldest first: id, and the messages it began with."""
        query = select(runs.c.id, runs.c.spec_sealed).where(runs.c.thread_id == thread_id)
        rows = self._rows(query.order_by(runs.c.created_at.desc()).limit(limit))
        return [(row.id, self.vault.open(row.spec_sealed)["messages"]) for row in reversed(rows)]

    def asked(self, run_id: str) -> list[Message]:
        """Return the messages a run began with."""
        query = select(runs.c.spec_sealed).where(runs.c.id == run_id)
        return [message for row in self._rows(query) for message in self.vault.open(row.spec_sealed)["messages"]]

    def _call(self, row: Any) -> CallLine:
        values = dict(row._mapping)
        arguments, output = values.pop("arguments_sealed", None), values.pop("result_sealed", None)
        return CallLine(**values, arguments=self.vault.open(arguments), output=self.vault.open(output))

    def _rows(self, query: Any) -> Sequence[Any]:
        return self.read(lambda connection: connection.execute(query).all())


_RUN = tuple(runs.c[name] for name in RunLine.__dataclass_fields__)


def _run(row: Any) -> RunLine:
    return RunLine(**row._mapping)
