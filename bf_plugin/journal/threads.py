"""Rows of a thread as a whole: what its deletion removes, and what it must tell the provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from bf_plugin.journal.base import Base
from bf_plugin.journal.records import ThreadBusy, UnknownThread
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.states import ENDED

_THREAD = Statement("SELECT engine_key, state_sealed FROM bf_threads WHERE id = :thread_id")
_HANDLES = Statement(
    """
    SELECT bf_runs.id, bf_runs.spec_sealed, bf_steps.handle_sealed
    FROM bf_runs LEFT JOIN bf_steps ON bf_steps.run_id = bf_runs.id
    WHERE bf_runs.thread_id = :thread_id ORDER BY bf_runs.created_at DESC
    """
)
_HOLD = Statement("SELECT id FROM bf_threads WHERE id = :thread_id AND app = :app FOR UPDATE")
_BUSY = Statement(f"SELECT id FROM bf_runs WHERE thread_id = :thread_id AND state != {ENDED!r} LIMIT 1")
_DELETE = Statement("DELETE FROM bf_threads WHERE id = :thread_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one provider may keep of a thread: `names` are the handles of its responses and the state behind them.

    `engine_key` says whose they are, for what the newest run left; None for older runs under other keys or at other
    providers, and if no step was ever finished.
    """

    provider: str
    base_url: str | None
    operator_key: bool
    engine_key: str | None
    names: Sequence[Mapping[str, Any]] = field(repr=False)


class ThreadStore(Base):
    """Threads."""

    def kept(self, thread_id: str) -> Sequence[Kept]:
        """Return what providers may keep of a thread, the newest run's first; nothing if none ever heard of it."""
        thread = self.read(lambda connection: _THREAD.row(connection, thread_id=thread_id))
        rows = self.read(lambda connection: _HANDLES.rows(connection, thread_id=thread_id))
        if thread is None:
            return ()
        specs: dict[str, Mapping[str, Any]] = {}
        found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for run_id, spec_sealed, handle_sealed in rows:
            spec = specs[run_id] = specs.get(run_id) or self.vault.open(spec_sealed)
            names = found.setdefault((spec["provider"], spec["base_url"], spec["operator_key"]), [])
            if handle_sealed is not None:
                names.append(self.vault.open(handle_sealed))
        if found and thread.state_sealed is not None:
            next(iter(found.values())).append(self.vault.open(thread.state_sealed))
        keys = [thread.engine_key, *(None for _ in found)]
        return [
            Kept(provider=provider, base_url=base_url, operator_key=operator_key, engine_key=key, names=names)
            for ((provider, base_url, operator_key), names), key in zip(found.items(), keys, strict=False)
            if names
        ]

    def delete(self, thread_id: str, app: str) -> Future[None]:
        """Remove a thread with all that belongs to it.

        Raises UnknownThread when the app has no such thread, ThreadBusy while one of its runs has not ended.
        """

        def job(connection: Connection) -> None:
            if _HOLD.row(connection, thread_id=thread_id, app=app) is None:
                raise UnknownThread("no such thread")
            if (busy := _BUSY.value(connection, thread_id=thread_id)) is not None:
                raise ThreadBusy(busy)
            _DELETE.run(connection, thread_id=thread_id)

        return self.write(job)
