"""Rows of the processes that drive runs on a Postgres journal, and their heartbeats."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, exists, extract, func, insert, or_, select, update

from bf_plugin.journal.base import Base
from bf_plugin.journal.signals import signal_all
from bf_plugin.journal.states import ENDED
from bf_plugin.journal.tables import owners, runs, unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerRow:
    """A process. `beat_at` is the database's clock; compare it with nothing but earlier values of itself."""

    id: str
    beat_at: float
    left: bool


class OwnerStore(Base):
    """Who drives runs, and who has left or fallen silent."""

    def beat(self, owner: str) -> Future[None]:
        """Say that a process is alive; the first time this puts it on record."""

        def job(connection: Connection) -> None:
            mine = update(owners).where(owners.c.id == owner).values(beat_at=_now(connection))
            if connection.execute(mine).rowcount != 1:
                connection.execute(insert(owners).values(id=owner, beat_at=_now(connection), has_left=0))

        return self.write(job)

    def leave(self, owner: str) -> Future[None]:
        """Say that a process drives no runs any more, and tell the others."""

        def job(connection: Connection) -> None:
            connection.execute(update(owners).where(owners.c.id == owner).values(has_left=1))
            signal_all(connection)

        return self.write(job)

    def try_out(self) -> Future[None]:
        """Write a row and take it back: a transaction that changes nothing would not notice a full disk."""

        def job(connection: Connection) -> None:
            row = f"check-{secrets.token_hex(8)}"
            connection.execute(insert(owners).values(id=row, beat_at=0.0, has_left=1))
            connection.execute(delete(owners).where(owners.c.id == row))

        return self.write(job)

    def all(self) -> list[OwnerRow]:
        """Return all processes on record, those that have left or died too as long as runs are theirs."""
        rows = self.read(lambda connection: connection.execute(select(owners)).all())
        return [OwnerRow(id=row.id, beat_at=row.beat_at, left=bool(row.has_left)) for row in rows]

    def is_alive(self, owner: str, timeout: float) -> bool:
        """Tell whether a process gave a sign of life within the last `timeout` seconds."""

        def query(connection: Connection) -> bool:
            fresh = (owners.c.id == owner, owners.c.has_left == 0, owners.c.beat_at > _now(connection) - timeout)
            return connection.execute(select(owners.c.id).where(*fresh)).first() is not None

        return self.read(query)

    def runs_of(self, gone: Collection[str]) -> list[tuple[str, int, str | None]]:
        """Return id, epoch and owner of the runs under way of processes that are gone or not on record."""
        unknown = ~exists().where(owners.c.id == runs.c.owner)
        theirs = (unfinished, runs.c.state != ENDED, or_(runs.c.owner.in_(list(gone)), unknown))
        query = select(runs.c.id, runs.c.epoch, runs.c.owner).where(*theirs).order_by(runs.c.created_at)
        rows = self.read(lambda connection: connection.execute(query).all())
        return [(row.id, row.epoch, row.owner) for row in rows]

    def forget(self, gone: Collection[str]) -> Future[None]:
        """Remove processes that are gone and that no run needs to be found by any more."""

        def job(connection: Connection) -> None:
            needed = exists().where(runs.c.owner == owners.c.id, unfinished, runs.c.state != ENDED)
            connection.execute(delete(owners).where(owners.c.id.in_(list(gone)), ~needed))

        return self.write(job)


def _now(connection: Connection) -> Any:
    """Return the database's clock, in POSIX seconds: the hosts' may differ."""
    return extract("epoch", func.clock_timestamp()) if connection.dialect.name == "postgresql" else time.time()
