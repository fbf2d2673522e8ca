"""What is read of runs by those who do not drive them: pages that come back, and operators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bf_plugin.items import Message
from bf_plugin.journal.base import Base
from bf_plugin.journal.runs import decode_usage
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.states import ACCEPTED, ENDED, SEALED, CallState, RunState, StepState
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


_RUN = ", ".join(RunLine.__dataclass_fields__)
_STATE = Statement("SELECT state FROM bf_runs WHERE id = :run_id")
_NEWEST = Statement(f"SELECT {_RUN} FROM bf_runs ORDER BY state = {ENDED!r}, created_at DESC LIMIT :number")
_ONE = Statement(f"SELECT {_RUN} FROM bf_runs WHERE id = :run_id")
_STEPS = Statement(
    "SELECT number, state, started_at, ended_at, usage FROM bf_steps WHERE run_id = :run_id ORDER BY number"
)
_CALLS = Statement(
    """
    SELECT step, name, state, deadline, arguments_sealed, result_sealed FROM bf_calls
    WHERE run_id = :run_id ORDER BY step, position
    """
)
# No message is sealed before the one before it was accepted, and no run ended before its last was.
_MESSAGES = Statement(
    f"""
    SELECT CASE WHEN state = {SEALED!r} AND (
        number < (SELECT max(number) FROM bf_messages WHERE run_id = :run_id)
        OR EXISTS (SELECT 1 FROM bf_runs WHERE id = :run_id AND state = {ENDED!r})
    ) THEN {ACCEPTED!r} ELSE state END AS reached, count(*) AS number
    FROM bf_messages WHERE run_id = :run_id GROUP BY reached
    """
)
_TURNS = Statement(
    "SELECT id, spec_sealed FROM bf_runs WHERE thread_id = :thread_id ORDER BY created_at DESC LIMIT :number"
)
_SPEC = Statement("SELECT spec_sealed FROM bf_runs WHERE id = :run_id")


class Overview(Base):
    """Reads, all of them short."""

    def state(self, run_id: str) -> RunState | None:
        """Return the state of a run, None when it is gone."""
        state: RunState | None = self.read(lambda connection: _STATE.value(connection, run_id=run_id))
        return state

    def newest(self, limit: int) -> list[RunLine]:
        """Return runs that have not ended before those that have, the newest first."""
        return [
            RunLine(**row._asdict()) for row in self.read(lambda connection: _NEWEST.rows(connection, number=limit))
        ]

    def run(self, run_id: str) -> RunLine | None:
        """Return one run."""
        row = self.read(lambda connection: _ONE.row(connection, run_id=run_id))
        return None if row is None else RunLine(**row._asdict())

    def steps(self, run_id: str) -> list[StepLine]:
        """Return the steps of a run, in order."""
        rows = self.read(lambda connection: _STEPS.rows(connection, run_id=run_id))
        return [StepLine(**{**row._asdict(), "usage": decode_usage(row.usage)}) for row in rows]

    def calls(self, run_id: str, *, content: bool = False) -> list[CallLine]:
        """Return the tool calls of a run, in order; with `content`, what was asked and answered too."""
        rows = self.read(lambda connection: _CALLS.rows(connection, run_id=run_id))
        return [self._call(content, **row._asdict()) for row in rows]

    def messages(self, run_id: str) -> dict[str, int]:
        """Return how many messages a run has, by their state."""
        return dict(self.read(lambda connection: _MESSAGES.rows(connection, run_id=run_id)))

    def turns(self, thread_id: str, limit: int) -> list[tuple[str, list[Message]]]:
        """Return the newest `limit` runs of a thread, oldest first: id, and the messages it began with."""
        rows = self.read(lambda connection: _TURNS.rows(connection, thread_id=thread_id, number=limit))
        return [(row.id, self.vault.open(row.spec_sealed)["messages"]) for row in reversed(rows)]

    def asked(self, run_id: str) -> list[Message]:
        """Return the messages a run began with."""
        spec = self.read(lambda connection: _SPEC.value(connection, run_id=run_id))
        return [] if spec is None else list(self.vault.open(spec)["messages"])

    def _call(self, content: bool, arguments_sealed: bytes, result_sealed: bytes | None, **plain: Any) -> CallLine:
        if not content:
            return CallLine(**plain)
        return CallLine(**plain, arguments=self.vault.open(arguments_sealed), output=self.vault.open(result_sealed))
