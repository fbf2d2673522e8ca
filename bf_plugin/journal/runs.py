"""Rows of runs and their threads: accepted, decided once, ended."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, case, delete, exists, insert, literal_column, null, select, update

from bf_plugin.items import Item
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, outcome_of
from bf_plugin.journal.keys import Claim, check_claim, keep_claim
from bf_plugin.journal.prepared import Prepared, insert_of
from bf_plugin.journal.records import Cut, Ending, RunRecord, RunSpec, Secrets, ThreadBusy, UnknownThread
from bf_plugin.journal.signals import signal_driver
from bf_plugin.journal.states import ENDED, ENDING, QUEUED, STARTING, UNDER_WAY, RunState
from bf_plugin.journal.tables import items, runs, threads, under_way, unfinished
from bf_plugin.values import Usage

_this = runs.c.id == bindparam("run_id")
_here = runs.c.thread_id == bindparam("thread_id")
_waiting = (runs.c.state == QUEUED, runs.c.outcome.is_(None))
_at_its_place = case((runs.c.state == QUEUED, QUEUED), else_=ENDING)

_NEW_THREAD = insert_of(threads, "id", "app", "created_by", "used_at", "synced")
_TOUCH = Prepared(
    update(threads)
    .where(threads.c.id == bindparam("thread_id"), threads.c.app == bindparam("whose"))
    .values(used_at=bindparam("now"))
)
_OTHERS = Prepared(
    select(runs.c.id, runs.c.state, runs.c.outcome).where(_here, runs.c.state != ENDED).order_by(runs.c.created_at)
)
_NEW_RUN = insert_of(
    runs,
    *("id", "thread_id", "app", "owner", "state", "epoch", "attempts", "told"),
    *("created_at", "started_at", "deadline", "spec_sealed", "secrets_sealed"),
)
_decide = (
    update(runs)
    .where(_this, runs.c.outcome.is_(None))
    .values(
        outcome=bindparam("as_outcome"),
        finish_reason=bindparam("because"),
        error_sealed=bindparam("error"),
        state=_at_its_place,
    )
)
_DECIDE = Prepared(_decide)
_DECIDE_MINE = Prepared(_decide.where(runs.c.epoch == bindparam("in_epoch")))
_THREAD_OF = Prepared(select(runs.c.thread_id).where(_this))
_END = Prepared(
    update(runs)
    .where(_this)
    .values(state=ENDED, ended_at=bindparam("now"), secrets_sealed=null(), usage=bindparam("used"))
)
_HOLD_THREAD = Prepared(select(threads.c.id).where(threads.c.id == bindparam("thread_id")).with_for_update())
_BUSY = Prepared(select(runs.c.id).where(_here, under_way).limit(1))
_NEXT = Prepared(select(runs.c.id).where(_here, *_waiting).order_by(runs.c.created_at, runs.c.id).limit(1))
_PROMOTE = Prepared(
    update(runs)
    .where(_this, *_waiting)
    .values(state=STARTING, started_at=bindparam("now"), deadline=bindparam("until"))
)
_PLAIN = (
    "id",
    "thread_id",
    "app",
    "owner",
    "state",
    "epoch",
    "attempts",
    "told",
    "created_at",
    "started_at",
    "deadline",
)
_TELL = Prepared(update(runs).where(_this).values(told=literal_column("1")))
# The index of unfinished runs knows what a process has to do with, however many have ended.
_open = (runs.c.owner == bindparam("owner"), unfinished)
_DECIDED = Prepared(
    select(runs.c.id, runs.c.outcome, runs.c.finish_reason, runs.c.error_sealed).where(
        *_open, runs.c.state != ENDED, runs.c.outcome.is_not(None)
    )
)
_STARTING = Prepared(select(runs.c.id).where(*_open, runs.c.state == STARTING))
_UNDER_WAY = Prepared(select(runs.c.id, runs.c.epoch, runs.c.owner).where(unfinished).order_by(runs.c.created_at))


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
            if new_thread:
                _insert_thread(connection, record, now)
            else:
                _touch_thread(connection, record, now)
            state = _first_state(connection, record.thread_id, enqueue)
            until = now + timeout if state == STARTING else None
            created = dataclasses.replace(record, state=state, created_at=now, started_at=until and now, deadline=until)
            row = {name: getattr(created, name) for name in _PLAIN}
            _NEW_RUN.execute(connection, {**row, "spec_sealed": spec, "secrets_sealed": secrets})
            if claim is not None:
                keep_claim(connection, record.app, claim, record.id, now)
            return created

        return self.write(job, record.id)

    def decide(self, run_id: str, ending: Ending, *, epoch: int | None = None) -> Future[Ending]:
        """Propose how a run ends: the one statement that gives it an outcome, if it has none yet.

        Returns `ending`, or the one on record when that was first. A queued run stays queued, so that it never holds
        its thread. A driver says its `epoch`: raises Fenced when the run is another's to end.
        """
        values: dict[str, Any] = {
            "run_id": run_id,
            "as_outcome": ending.status,
            "because": ending.finish_reason,
            "error": None if ending.error is None else self.vault.seal(dict(ending.error)),
        }
        if epoch is not None:
            values["in_epoch"] = epoch

        def job(connection: Connection) -> Ending:
            decided = _DECIDE if epoch is None else _DECIDE_MINE
            if decided.execute(connection, values) == 1:
                signal_driver(connection, run_id)
                return ending
            if epoch is not None:
                fence(connection, run_id, epoch)
            status, reason, error = outcome_of(connection, run_id)
            return Ending(status=status, finish_reason=reason, error=self.vault.open(error), won=False)

        return self.write(job, run_id)

    def finish(
        self, run_id: str, epoch: int, *, usage: Usage, cut: Cut | None, timeout: float
    ) -> Future[RunRecord | None]:
        """End a run: erase its keys, keep what it leaves in its thread, let the oldest queued run start.

        Returns that run. Raises Fenced.
        """
        sealed = self._seal_cut(cut)

        def job(connection: Connection) -> RunRecord | None:
            fence(connection, run_id, epoch)
            thread_id = _THREAD_OF.value(connection, {"run_id": run_id})
            if cut is not None and sealed is not None:
                self._leave(connection, thread_id, run_id, cut, sealed)
            _END.execute(connection, {"run_id": run_id, "now": time.time(), "used": encode_usage(usage)})
            return self._promote(connection, thread_id, timeout)

        return self.write(job, run_id)

    def discard(self, run_id: str, epoch: int, *, timeout: float) -> Future[RunRecord | None]:
        """Remove a run the provider refused, its items, and its thread if that is new; returns a promoted run."""

        def job(connection: Connection) -> RunRecord | None:
            fence(connection, run_id, epoch)
            thread_id = _THREAD_OF.value(connection, {"run_id": run_id})
            connection.execute(delete(items).where(items.c.run_id == run_id))
            connection.execute(delete(runs).where(runs.c.id == run_id))
            unused = ~exists().where(runs.c.thread_id == thread_id)
            connection.execute(delete(threads).where(threads.c.id == thread_id, threads.c.created_by == run_id, unused))
            return self._promote(connection, thread_id, timeout)

        return self.write(job, run_id)

    def set_usage(self, run_id: str, usage: Usage) -> Future[None]:
        """Correct the usage of an ended run, once the provider has told."""

        def job(connection: Connection) -> None:
            connection.execute(update(runs).where(runs.c.id == run_id).values(usage=encode_usage(usage)))

        return self.write(job, run_id)

    def set_told(self, run_id: str) -> Future[None]:
        """Note that the plugins know of a run's end."""

        def job(connection: Connection) -> None:
            _TELL.execute(connection, {"run_id": run_id})

        return self.write(job, run_id)

    def adopt(self, run_id: str, epoch: int, owner: str) -> Future[RunRecord | None]:
        """Take a run over from the driver of `epoch`; None when somebody else was faster."""

        def job(connection: Connection) -> RunRecord | None:
            mine = {"epoch": epoch + 1, "owner": owner, "attempts": runs.c.attempts + 1}
            theirs = update(runs).where(runs.c.id == run_id, runs.c.epoch == epoch, unfinished)
            won = connection.execute(theirs.values(**mine)).rowcount == 1
            return self._read(connection, run_id) if won else None

        return self.write(job, run_id)

    def get(self, run_id: str, thread_id: str) -> RunRecord | None:
        """Return the run of a pair of ids, None when there is no such pair."""
        query = select(runs).where(runs.c.id == run_id, runs.c.thread_id == thread_id)
        row = self.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else self._record(row)

    def find(self, run_id: str) -> RunRecord | None:
        """Return a run, for the plugin's own use: callers prove that they know its thread."""
        query = select(runs).where(runs.c.id == run_id)
        row = self.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else self._record(row)

    def endings(self, owner: str) -> list[tuple[str, Ending]]:
        """Return the runs `owner` drives that have an outcome and are not `ended`, with how they end."""
        rows = self.read(lambda connection: _DECIDED.rows(connection, {"owner": owner}))
        return [
            (run_id, Ending(status=status, finish_reason=reason, error=self.vault.open(error), won=False))
            for run_id, status, reason, error in rows
        ]

    def starting(self, owner: str) -> list[str]:
        """Return the runs of `owner` that have not come to their first response."""
        rows = self.read(lambda connection: _STARTING.rows(connection, {"owner": owner}))
        return [run_id for (run_id,) in rows]

    def has_thread(self, thread_id: str, app: str) -> bool:
        """Tell whether the app has this thread."""
        query = select(threads.c.id).where(threads.c.id == thread_id, threads.c.app == app)
        return self.read(lambda connection: connection.execute(query).first()) is not None

    def under_way(self) -> Sequence[tuple[str, int, str | None]]:
        """Return id, epoch and owner of every run that has not ended, or whose plugins do not know, oldest first."""
        return [
            (run_id, epoch, owner)
            for run_id, epoch, owner in self.read(lambda connection: _UNDER_WAY.rows(connection, {}))
        ]

    def thread_items(self, thread_id: str, upto: int | None = None) -> list[Item]:
        """Return the items of a thread, oldest first, up to and including item number `upto`."""
        query = select(items.c.item_sealed).where(items.c.thread_id == thread_id).order_by(items.c.id)
        if upto is not None:
            query = query.where(items.c.id <= upto)
        rows = self.read(lambda connection: connection.execute(query).scalars().all())
        return [self.vault.open(row) for row in rows]

    def _promote(self, connection: Connection, thread_id: str, timeout: float) -> RunRecord | None:
        """Let the oldest queued run of a thread start, unless one is under way; its owner sees it."""
        # Whoever adds a run to the thread holds this row: it is seen below, or sees what was ended here.
        here = {"thread_id": thread_id}
        _HOLD_THREAD.row(connection, here)
        if _BUSY.row(connection, here):
            return None
        while (next_id := _NEXT.value(connection, here)) is not None:
            now = time.time()
            # None changed: it was stopped in between.
            if _PROMOTE.execute(connection, {"run_id": next_id, "now": now, "until": now + timeout}) == 1:
                signal_driver(connection, next_id)
                return self._read(connection, next_id)
        return None

    def _seal_cut(self, cut: Cut | None) -> tuple[list[bytes], bytes | None] | None:
        if cut is None:
            return None
        return [self.vault.seal(item) for item in cut.items], None if cut.state is None else self.vault.seal(cut.state)

    def _leave(
        self, connection: Connection, thread_id: str, run_id: str, cut: Cut, sealed: tuple[list[bytes], bytes | None]
    ) -> None:
        rows = [{"thread_id": thread_id, "run_id": run_id, "item_sealed": item} for item in sealed[0]]
        if rows:
            connection.execute(insert(items), rows)
        if sealed[1] is not None:
            synced = case((threads.c.engine_key == cut.engine_key, threads.c.synced), else_=0)
            change = {"engine_key": cut.engine_key, "state_sealed": sealed[1], "synced": synced}
            connection.execute(update(threads).where(threads.c.id == thread_id).values(**change))

    def _read(self, connection: Connection, run_id: str) -> RunRecord:
        return self._record(connection.execute(select(runs).where(runs.c.id == run_id)).one())

    def _record(self, row: Any) -> RunRecord:
        values = dict(row._mapping)
        spec, secrets, error = (values.pop(f"{name}_sealed") for name in ("spec", "secrets", "error"))
        return RunRecord(
            **{**values, "usage": decode_usage(values["usage"])},
            spec=RunSpec(**self.vault.open(spec)),
            secrets=Secrets(**self.vault.open(secrets)) if secrets else None,
            error=self.vault.open(error),
        )


def _insert_thread(connection: Connection, record: RunRecord, now: float) -> None:
    row = {"id": record.thread_id, "app": record.app, "created_by": record.id, "used_at": now, "synced": 0}
    _NEW_THREAD.execute(connection, row)


def _touch_thread(connection: Connection, record: RunRecord, now: float) -> None:
    if _TOUCH.execute(connection, {"thread_id": record.thread_id, "whose": record.app, "now": now}) != 1:
        raise UnknownThread("no such thread")


def _first_state(connection: Connection, thread_id: str, enqueue: bool) -> RunState:
    others = _OTHERS.rows(connection, {"thread_id": thread_id})
    undecided = [run_id for run_id, _, outcome in others if outcome is None]
    if undecided and not enqueue:
        raise ThreadBusy(undecided[0])
    return QUEUED if any(undecided) or any(state in UNDER_WAY for _, state, _ in others) else STARTING


def encode_usage(usage: Usage) -> str:
    """Return usage as the journal's JSON text."""
    return msgspec.json.encode(usage).decode()


def decode_usage(text: str | None) -> Usage:
    """Return usage from the journal's JSON text; zero for None."""
    return msgspec.json.decode(text, type=Usage) if text else Usage()
