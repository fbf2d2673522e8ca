"""Rows of the processes that drive runs on a Postgres journal, and their heartbeats."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import Connection

from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import signal_all
from bf_plugin.journal.sql import Statement, insertion
from bf_plugin.journal.states import ENDED

_BEAT = Statement(
    """
    INSERT INTO bf_owners (id, beat_at, has_left) VALUES (:owner, CLOCK(), 0)
    ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at
    """
)
_LEAVE = Statement("UPDATE bf_owners SET has_left = 1 WHERE id = :owner")
_TRY = insertion("bf_owners", "id", "beat_at", "has_left")
_TRIED = Statement("DELETE FROM bf_owners WHERE id = :owner")
_ALL = Statement("SELECT id, beat_at, has_left FROM bf_owners")
_ALIVE = Statement("SELECT id FROM bf_owners WHERE id = :owner AND has_left = 0 AND beat_at > CLOCK() - :timeout")
_RUNS = Statement(
    f"""
    SELECT bf_runs.id, epoch, owner, bf_owners.id AS known
    FROM bf_runs LEFT JOIN bf_owners ON bf_owners.id = owner
    WHERE told = 0 AND state != {ENDED!r} ORDER BY created_at
    """
)
_FORGET = Statement(
    f"""
    DELETE FROM bf_owners WHERE id = :owner
    AND NOT EXISTS (SELECT 1 FROM bf_runs WHERE owner = :owner AND told = 0 AND state != {ENDED!r})
    """
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRow:
    """A process. `beat_at` is the database's clock; compare it with nothing but earlier values of itself."""

    id: str
    beat_at: float
    left: bool


class OwnerStore(Base):
    """Who drives runs, and who has left or fallen silent."""

    def beat(self, owner: str) -> Future[int]:
        """Say that a process is alive; the first time this puts it on record."""
        return self.write(lambda connection: _BEAT.run(connection, owner=owner))

    def leave(self, owner: str) -> Future[None]:
        """Say that a process drives no runs any more, and tell the others."""

        def job(connection: Connection) -> None:
            _LEAVE.run(connection, owner=owner)
            signal_all(connection)

        return self.write(job)

    def try_out(self) -> Future[None]:
        """Write a row and take it back: a transaction that changes nothing would not notice a full disk."""

        def job(connection: Connection) -> None:
            row = f"check-{secrets.token_hex(8)}"
            _TRY.run(connection, id=row, beat_at=0.0, has_left=1)
            _TRIED.run(connection, owner=row)

        return self.write(job)

    def all(self) -> list[OwnerRow]:
        """Return all processes on record, those that have left or died too as long as runs are theirs."""
        return [OwnerRow(id=row.id, beat_at=row.beat_at, left=bool(row.has_left)) for row in self.read(_ALL.rows)]

    def is_alive(self, owner: str, timeout: float) -> bool:
        """Tell whether a process gave a sign of life within the last `timeout` seconds."""
        return self.read(lambda connection: _ALIVE.row(connection, owner=owner, timeout=timeout)) is not None

    def runs_of(self, gone: Collection[str]) -> list[tuple[str, int, str | None]]:
        """Return id, epoch and owner of the runs under way of processes that are gone or not on record."""
        rows = self.read(_RUNS.rows)
        return [(row.id, row.epoch, row.owner) for row in rows if row.known is None or row.owner in gone]

    def forget(self, gone: Collection[str]) -> Future[int]:
        """Remove processes that are gone and that no run needs to be found by any more."""
        rows = [{"owner": owner} for owner in gone]
        return self.write(lambda connection: _FORGET.run_each(connection, rows))
