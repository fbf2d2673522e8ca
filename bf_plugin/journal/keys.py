"""Rows of idempotency keys: which run a key stands for, and what its start was answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from bf_plugin.errors import JournalError
from bf_plugin.journal.base import Base
from bf_plugin.journal.tables import keys, runs

KEY_LIFE = 24 * 3600.0
"""Seconds for which a key stands for its run."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key and the body that came with it, both as digests."""

    key: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStart:
    """The start a key stands for; `answer` is there once it was answered."""

    run_id: str
    thread_id: str = field(repr=False)
    body: str
    created_at: float
    ended_at: float | None
    answer: Mapping[str, Any] | None = field(repr=False)


class KeyTaken(JournalError):
    """Another start has this key."""


class KeyStore(Base):
    """Keys. `RunStore.create` writes them, in the run's own transaction; they go with their run."""

    def get(self, app: str, key: str) -> FirstStart | None:
        """Return what a key of an app stands for, None when it is free."""
        columns = (keys.c.run_id, keys.c.body, keys.c.created_at, keys.c.answer_sealed, runs.c.thread_id)
        mine = (keys.c.app == app, keys.c.key == key, keys.c.created_at >= time.time() - KEY_LIFE)
        query = select(*columns, runs.c.ended_at).join(runs, runs.c.id == keys.c.run_id).where(*mine)
        row = self.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            return None
        values = dict(row._mapping)
        return FirstStart(answer=self.vault.open(values.pop("answer_sealed")), **values)

    def answer(self, run_id: str, answer: Mapping[str, Any]) -> Future[None]:
        """Keep what the start of a run was answered."""
        sealed = self.vault.seal(answer)

        def job(connection: Connection) -> None:
            connection.execute(update(keys).where(keys.c.run_id == run_id).values(answer_sealed=sealed))

        return self.write(job, run_id)


def check_claim(connection: Connection, app: str, claim: Claim, now: float) -> None:
    """Raise KeyTaken unless the key is free, or free again."""
    mine = (keys.c.app == app, keys.c.key == claim.key)
    connection.execute(delete(keys).where(*mine, keys.c.created_at < now - KEY_LIFE))
    if connection.execute(select(keys.c.run_id).where(*mine)).first():
        raise KeyTaken("another start has this key")


def keep_claim(connection: Connection, app: str, claim: Claim, run_id: str, now: float) -> None:
    """Let a key stand for a run that was just put on record."""
    row = {"app": app, "key": claim.key, "body": claim.body, "run_id": run_id, "created_at": now}
    connection.execute(insert(keys).values(**row))
