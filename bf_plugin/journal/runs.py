"""Rows of runs and their threads: accepted, decided once, ended."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
from sqlalchemy import Connection

from bf_plugin.items import Item
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, outcome_of, signal_driver
from bf_plugin.journal.keys import Claim, check_claim, keep_claim
from bf_plugin.journal.records import Cut, Ending, RunRecord, RunSpec, Secrets, ThreadBusy, UnknownThread
from bf_plugin.journal.sql import Statement, insertion
from bf_plugin.journal.states import ENDED, ENDING, QUEUED, STARTING, UNDER_WAY, RunState
from bf_plugin.values import Usage

_NEW_THREAD = insertion("bf_threads", "id", "app", "created_by", "used_at", "synced")
_TOUCH_THREAD = Statement("UPDATE bf_threads SET used_at = :now WHERE id = :thread_id AND app = :app")
_OPEN_RUNS = Statement(
    f"""
    SELECT id, state, outcome FROM bf_runs
    WHERE thread_id = :thread_id AND state != {ENDED!r} ORDER BY created_at
    """
)
_PLAIN = (
    *("id", "thread_id", "app", "owner", "state", "epoch", "attempts", "told"),
    *("created_at", "started_at", "deadline"),
)
_NEW_RUN = insertion("bf_runs", *_PLAIN, "spec_sealed", "secrets_sealed")
_DECIDE = Statement(
    f"""
    UPDATE bf_runs SET outcome = :status, finish_reason = :finish_reason, error_sealed = :error,
        state = CASE state WHEN {QUEUED!r} THEN {QUEUED!r} ELSE {ENDING!r} END
    WHERE id = :run_id AND outcome IS NULL AND epoch = coalesce(:epoch, epoch)
    """
)
_THREAD_OF = Statement("SELECT thread_id FROM bf_runs WHERE id = :run_id")
_END = Statement(
    f"""
    UPDATE bf_runs SET state = {ENDED!r}, ended_at = :now, secrets_sealed = NULL, usage = :usage
    WHERE id = :run_id
    """
)
_NEW_ITEM = insertion("bf_items", "thread_id", "run_id", "item_sealed")
_KEEP_STATE = Statement(
    """
    UPDATE bf_threads SET synced = CASE engine_key WHEN :engine_key THEN synced ELSE 0 END,
        engine_key = :engine_key, state_sealed = :state
    WHERE id = :thread_id
    """
)
_DISCARD_ITEMS = Statement("DELETE FROM bf_items WHERE thread_id = :thread_id AND run_id = :run_id")
_DISCARD_RUN = Statement("DELETE FROM bf_runs WHERE id = :run_id")
_DISCARD_THREAD = Statement(
    """
    DELETE FROM bf_threads WHERE id = :thread_id AND created_by = :run_id
    AND NOT EXISTS (SELECT 1 FROM bf_runs WHERE thread_id = :thread_id)
    """
)
_HOLD_THREAD = Statement("SELECT id FROM bf_threads WHERE id = :thread_id FOR UPDATE")
_BUSY = Statement(f"SELECT id FROM bf_runs WHERE thread_id = :thread_id AND state IN {UNDER_WAY} LIMIT 1")
_NEXT = Statement(
    f"""
    SELECT id FROM bf_runs WHERE thread_id = :thread_id AND state = {QUEUED!r} AND outcome IS NULL
    ORDER BY created_at, id LIMIT 1
    """
)
_PROMOTE = Statement(
    f"""
    UPDATE bf_runs SET state = {STARTING!r}, started_at = :now, deadline = :deadline
    WHERE id = :run_id AND state = {QUEUED!r} AND outcome IS NULL
    """
)
_SET_USAGE = Statement("UPDATE bf_runs SET usage = :usage WHERE id = :run_id")
_SET_TOLD = Statement("UPDATE bf_runs SET told = 1 WHERE id = :run_id")
# The index of those with `told = 0` knows what a process still has to do with, however many have ended.
_ADOPT = Statement(
    """
    UPDATE bf_runs SET epoch = epoch + 1, owner = :owner, attempts = attempts + 1
    WHERE id = :run_id AND epoch = :epoch AND told = 0
    """
)
_ENDINGS = Statement(
    f"""
    SELECT id, outcome, finish_reason, error_sealed FROM bf_runs
    WHERE owner = :owner AND told = 0 AND state != {ENDED!r} AND outcome IS NOT NULL
    """
)
_STARTING = Statement(f"SELECT id FROM bf_runs WHERE owner = :owner AND told = 0 AND state = {STARTING!r}")
_UNDER_WAY = Statement("SELECT id, epoch, owner FROM bf_runs WHERE told = 0 ORDER BY created_at")
_RUN = Statement("SELECT * FROM bf_runs WHERE id = :run_id")
_RUN_OF_THREAD = Statement("SELECT * FROM bf_runs WHERE id = :run_id AND thread_id = :thread_id")
_THREAD = Statement("SELECT id FROM bf_threads WHERE id = :thread_id AND app = :app")
_ITEMS = Statement(
    "SELECT item_sealed FROM bf_items WHERE thread_id = :thread_id AND id <= coalesce(:upto, id) ORDER BY id"
)


class RunStore(Base):
    """Runs and the threads they belong to."""

    def create(
        self, record: RunRecord, *, new_thread: bool, enqueue: bool, timeout: float, claim: Claim | None = None
    ) -> Future[RunRecord]:
        """Put a run on record and return it, `starting`, or `queued` behind one that is ending.

        With `enqueue` it is queued behind any run; else raises ThreadBusy when one is under way. Raises UnknownThread
        when the app has no such thread, KeyTaken when another run has the key of `claim`. `timeout` is in seconds and
        starts when the run does.
        """
        spec, secrets = self.vault.seal(record.spec), self.vault.seal(record.secrets)

        def job(connection: Connection) -> RunRecord:
            now = time.time()
            if claim is not None:
                check_claim(connection, record.app, claim, now)
            thread_id, app = record.thread_id, record.app
            if new_thread:
                _NEW_THREAD.run(connection, id=thread_id, app=app, created_by=record.id, used_at=now, synced=0)
            elif _TOUCH_THREAD.run(connection, thread_id=thread_id, app=app, now=now) != 1:
                raise UnknownThread("no such thread")
            state = _first_state(connection, thread_id, enqueue)
            until = now + timeout if state == STARTING else None
            created = dataclasses.replace(record, state=state, created_at=now, started_at=until and now, deadline=until)
            row = {name: getattr(created, name) for name in _PLAIN}
            _NEW_RUN.run(connection, **row, spec_sealed=spec, secrets_sealed=secrets)
            if claim is not None:
                keep_claim(connection, record.app, claim, record.id, now)
            return created

        return self.write(job, record.id)

    def decide(self, run_id: str, ending: Ending, *, epoch: int | None = None) -> Future[Ending]:
        """Propose how a run ends: the one statement that gives it an outcome, if it has none yet.

        Returns `ending`, or the one on record when that was first. A queued run stays queued, so that it never holds
        its thread. A driver says its `epoch`: raises Fenced when the run is another's to end.
        """
        status, finish_reason = ending.status, ending.finish_reason
        error = None if ending.error is None else self.vault.seal(dict(ending.error))
        values = {"run_id": run_id, "epoch": epoch, "status": status, "finish_reason": finish_reason, "error": error}

        def job(connection: Connection) -> Ending:
            if _DECIDE.run(connection, **values) == 1:
                signal_driver(connection, run_id)
                return ending
            if epoch is not None:
                fence(connection, run_id, epoch)
            return self._ending(*outcome_of(connection, run_id))

        return self.write(job, run_id)

    def finish(
        self, run_id: str, epoch: int, *, usage: Usage, cut: Cut | None, timeout: float
    ) -> Future[RunRecord | None]:
        """End a run: erase its keys, keep what it leaves in its thread, let the oldest queued run start.

        Returns that run. Raises Fenced.
        """
        left = [] if cut is None else [self.vault.seal(item) for item in cut.items]
        state = None if cut is None or cut.state is None else self.vault.seal(cut.state)

        def job(connection: Connection) -> RunRecord | None:
            fence(connection, run_id, epoch)
            thread_id = _THREAD_OF.value(connection, run_id=run_id)
            add_items(connection, thread_id, run_id, left)
            if cut is not None and state is not None:
                _KEEP_STATE.run(connection, thread_id=thread_id, engine_key=cut.engine_key, state=state)
            _END.run(connection, run_id=run_id, now=time.time(), usage=encode_usage(usage))
            return self._promote(connection, thread_id, timeout)

        return self.write(job, run_id)

    def discard(self, run_id: str, epoch: int, *, timeout: float) -> Future[RunRecord | None]:
        """Remove a run the provider refused, its items, and its thread if that is new; returns a promoted run."""

        def job(connection: Connection) -> RunRecord | None:
            fence(connection, run_id, epoch)
            thread_id = _THREAD_OF.value(connection, run_id=run_id)
            _DISCARD_ITEMS.run(connection, thread_id=thread_id, run_id=run_id)
            _DISCARD_RUN.run(connection, run_id=run_id)
            _DISCARD_THREAD.run(connection, thread_id=thread_id, run_id=run_id)
            return self._promote(connection, thread_id, timeout)

        return self.write(job, run_id)

    def set_usage(self, run_id: str, usage: Usage) -> Future[int]:
        """Correct the usage of an ended run, once the provider has told."""
        text = encode_usage(usage)
        return self.write(lambda connection: _SET_USAGE.run(connection, run_id=run_id, usage=text), run_id)

    def set_told(self, run_id: str) -> Future[int]:
        """Note that the plugins know of a run's end."""
        return self.write(lambda connection: _SET_TOLD.run(connection, run_id=run_id), run_id)

    def adopt(self, run_id: str, epoch: int, owner: str) -> Future[RunRecord | None]:
        """Take a run over from the driver of `epoch`; None when somebody else was faster."""

        def job(connection: Connection) -> RunRecord | None:
            won = _ADOPT.run(connection, run_id=run_id, epoch=epoch, owner=owner) == 1
            return self._record(_RUN.row(connection, run_id=run_id)) if won else None

        return self.write(job, run_id)

    def get(self, run_id: str, thread_id: str) -> RunRecord | None:
        """Return the run of a pair of ids, None when there is no such pair."""
        row = self.read(lambda connection: _RUN_OF_THREAD.row(connection, run_id=run_id, thread_id=thread_id))
        return None if row is None else self._record(row)

    def find(self, run_id: str) -> RunRecord | None:
        """Return a run, for the plugin's own use: callers prove that they know its thread."""
        row = self.read(lambda connection: _RUN.row(connection, run_id=run_id))
        return None if row is None else self._record(row)

    def endings(self, owner: str) -> list[tuple[str, Ending]]:
        """Return the runs `owner` drives that have an outcome and are not `ended`, with how they end."""
        rows = self.read(lambda connection: _ENDINGS.rows(connection, owner=owner))
        return [(run_id, self._ending(*outcome)) for run_id, *outcome in rows]

    def starting(self, owner: str) -> list[str]:
        """Return the runs of `owner` that have not come to their first response."""
        return [row.id for row in self.read(lambda connection: _STARTING.rows(connection, owner=owner))]

    def has_thread(self, thread_id: str, app: str) -> bool:
        """Tell whether the app has this thread."""
        return self.read(lambda connection: _THREAD.row(connection, thread_id=thread_id, app=app)) is not None

    def under_way(self) -> Sequence[tuple[str, int, str | None]]:
        """Return id, epoch and owner of every run that has not ended, or whose plugins do not know, oldest first."""
        return self.read(_UNDER_WAY.rows)

    def thread_items(self, thread_id: str, upto: int | None = None) -> list[Item]:
        """Return the items of a thread, oldest first, up to and including item number `upto`."""
        rows = self.read(lambda connection: _ITEMS.rows(connection, thread_id=thread_id, upto=upto))
        return [self.vault.open(row.item_sealed) for row in rows]

    def _promote(self, connection: Connection, thread_id: str, timeout: float) -> RunRecord | None:
        """Let the oldest queued run of a thread start, unless one is under way; its owner sees it."""
        # Whoever adds a run to the thread holds this row: it is seen below, or sees what was ended here.
        _HOLD_THREAD.rows(connection, thread_id=thread_id)
        if _BUSY.row(connection, thread_id=thread_id):
            return None
        while (next_id := _NEXT.value(connection, thread_id=thread_id)) is not None:
            now = time.time()
            # None changed: it was stopped in between.
            if _PROMOTE.run(connection, run_id=next_id, now=now, deadline=now + timeout) == 1:
                signal_driver(connection, next_id)
                return self._record(_RUN.row(connection, run_id=next_id))
        return None

    def _ending(self, status: Any, finish_reason: Any, error: bytes | None) -> Ending:
        return Ending(status=status, finish_reason=finish_reason, error=self.vault.open(error), won=False)

    def _record(self, row: Any) -> RunRecord:
        values = row._asdict()
        spec, secrets, error = (self.vault.open(values.pop(f"{name}_sealed")) for name in ("spec", "secrets", "error"))
        return RunRecord(
            **{**values, "usage": decode_usage(values["usage"])},
            spec=RunSpec(**spec),
            secrets=Secrets(**secrets) if secrets else None,
            error=error,
        )


def _first_state(connection: Connection, thread_id: str, enqueue: bool) -> RunState:
    others = _OPEN_RUNS.rows(connection, thread_id=thread_id)
    undecided = [run.id for run in others if run.outcome is None]
    if undecided and not enqueue:
        raise ThreadBusy(undecided[0])
    return QUEUED if any(undecided) or any(run.state in UNDER_WAY for run in others) else STARTING


def add_items(connection: Connection, thread_id: str, run_id: str, sealed: Sequence[bytes]) -> None:
    """Add items of a run to its thread."""
    rows = [{"thread_id": thread_id, "run_id": run_id, "item_sealed": item} for item in sealed]
    _NEW_ITEM.run_each(connection, rows)


def encode_usage(usage: Usage) -> str:
    """Return usage as the journal's JSON text."""
    return msgspec.json.encode(usage).decode()


def decode_usage(text: str | None) -> Usage:
    """Return usage from the journal's JSON text; zero for None."""
    return msgspec.json.decode(text, type=Usage) if text else Usage()
