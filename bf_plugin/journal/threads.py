"""Rows of a thread as a whole: what its deletion removes, and what it must tell the provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, select

from bf_plugin.journal.base import Base
from bf_plugin.journal.records import ThreadBusy, UnknownThread
from bf_plugin.journal.tables import runs, steps, threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a provider may keep of a thread: `names` are the handles of its responses and the state behind them.

    `engine_key` says whose they are, None if no step was ever finished; `provider`, `base_url` and `operator_key` are
    those of the newest run.
    """

    provider: str
    base_url: str | None
    operator_key: bool
    engine_key: str | None
    names: Sequence[Mapping[str, Any]] = field(repr=False)


class ThreadStore(Base):
    """Threads."""

    def kept(self, thread_id: str) -> Kept | None:
        """Return what a provider may keep of a thread, None if it never heard of it."""
        whose = select(threads.c.engine_key, threads.c.state_sealed).where(threads.c.id == thread_id)
        specs = select(runs.c.spec_sealed).where(runs.c.thread_id == thread_id).order_by(runs.c.created_at.desc())
        handles = select(steps.c.handle_sealed).join(runs, runs.c.id == steps.c.run_id)
        mine = handles.where(runs.c.thread_id == thread_id, steps.c.handle_sealed.is_not(None))

        def query(connection: Connection) -> tuple[Any, bytes | None, Sequence[bytes]]:
            thread = connection.execute(whose).one_or_none()
            return thread, connection.execute(specs.limit(1)).scalar(), connection.execute(mine).scalars().all()

        thread, spec_sealed, sealed = self.read(query)
        if thread is None or spec_sealed is None:
            return None
        names = [self.vault.open(token) for token in (*sealed, thread.state_sealed) if token is not None]
        spec = self.vault.open(spec_sealed)
        from_spec = {name: spec[name] for name in ("provider", "base_url", "operator_key")}
        return Kept(**from_spec, engine_key=thread.engine_key, names=names) if names else None

    def delete(self, thread_id: str, app: str) -> Future[None]:
        """Remove a thread with all that belongs to it.

        Raises UnknownThread when the app has no such thread, ThreadBusy while one of its runs has not ended.
        """

        def job(connection: Connection) -> None:
            under_way = select(runs.c.id).where(runs.c.thread_id == thread_id, runs.c.state != "ended")
            mine = (threads.c.id == thread_id, threads.c.app == app)
            if connection.execute(select(threads.c.id).where(*mine).with_for_update()).first() is None:
                raise UnknownThread("no such thread")
            if (busy := connection.execute(under_way.limit(1)).scalar()) is not None:
                raise ThreadBusy(busy)
            connection.execute(delete(threads).where(*mine))

        return self.write(job)
