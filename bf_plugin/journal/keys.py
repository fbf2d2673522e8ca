"""Rows of idempotency keys: which run a key stands for, and what its start was answered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from bf_plugin.errors import JournalError
from bf_plugin.journal.base import Base
from bf_plugin.journal.sql import Statement, insertion

KEY_LIFE = 24 * 3600.0
"""Seconds for which a key stands for its run."""

_GET = Statement(
    """
    SELECT run_id, body, bf_idempotency.created_at, answer_sealed, thread_id, ended_at
    FROM bf_idempotency JOIN bf_runs ON bf_runs.id = run_id
    WHERE bf_idempotency.app = :app AND key = :key AND bf_idempotency.created_at >= :since
    """
)
_ANSWER = Statement("UPDATE bf_idempotency SET answer_sealed = :answer WHERE run_id = :run_id")
_FREE = Statement("DELETE FROM bf_idempotency WHERE app = :app AND key = :key AND created_at < :before")
_TAKEN = Statement("SELECT run_id FROM bf_idempotency WHERE app = :app AND key = :key")
_KEEP = insertion("bf_idempotency", "app", "key", "body", "run_id", "created_at")


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
        since = time.time() - KEY_LIFE
        row = self.read(lambda connection: _GET.row(connection, app=app, key=key, since=since))
        if row is None:
            return None
        values = row._asdict()
        return FirstStart(answer=self.vault.open(values.pop("answer_sealed")), **values)

    def answer(self, run_id: str, answer: Mapping[str, Any]) -> Future[int]:
        """Keep what the start of a run was answered."""
        sealed = self.vault.seal(answer)
        return self.write(lambda connection: _ANSWER.run(connection, run_id=run_id, answer=sealed), run_id)


def check_claim(connection: Connection, app: str, claim: Claim, now: float) -> None:
    """Raise KeyTaken unless the key is free, or free again."""
    _FREE.run(connection, app=app, key=claim.key, before=now - KEY_LIFE)
    if _TAKEN.row(connection, app=app, key=claim.key):
        raise KeyTaken("another start has this key")


def keep_claim(connection: Connection, app: str, claim: Claim, run_id: str, now: float) -> None:
    """Let a key stand for a run that was just put on record."""
    _KEEP.run(connection, app=app, key=claim.key, body=claim.body, run_id=run_id, created_at=now)
