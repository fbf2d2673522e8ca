"""Rows of sealed messages: what is sent, and the event log of a run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, insert, select, update

from bf_plugin.events import events_in
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence, fence_undecided
from bf_plugin.journal.records import Sealed, Source
from bf_plugin.journal.tables import messages


class MessageLog(Base):
    """The messages of runs, in order."""

    def seal(self, run_id: str, epoch: int, message: Sealed, *, closing: bool) -> Future[None]:
        """Commit a message before its first byte is sent.

        Raises Fenced, and Decided when the run has an outcome and this is not part of its `closing`.
        """
        data = self.vault.seal((message.body, message.sources))
        row = {
            "run_id": run_id,
            "number": message.number,
            "first_seq": message.first_seq,
            "last_seq": message.last_seq,
            "end_offset": message.end_offset,
            "state": "sealed" if message.deliver else "undelivered",
            "data_sealed": data,
        }

        def job(connection: Connection) -> None:
            if closing:
                fence(connection, run_id, epoch)
            else:
                fence_undecided(connection, run_id, epoch, progress=True)
            connection.execute(insert(messages).values(**row))

        return self.write(job, run_id)

    def settle(self, run_id: str, epoch: int, number: int, state: str) -> Future[None]:
        """Mark a message `accepted` or `undelivered`. Raises Fenced."""

        def job(connection: Connection) -> None:
            fence(connection, run_id, epoch)
            mine = (messages.c.run_id == run_id, messages.c.number == number)
            connection.execute(update(messages).where(*mine).values(state=state))

        return self.write(job, run_id)

    def has_end(self, run_id: str) -> bool:
        """Tell whether a run's `end` is sealed: it is always in the newest message."""
        query = select(messages).where(messages.c.run_id == run_id).order_by(messages.c.number.desc()).limit(1)
        return any(event["type"] == "end" for row in self._all(query) for event in events_in(row.body))

    def after(self, run_id: str, seq: int = 0, number: int = 0) -> Sequence[Sealed]:
        """Return the messages that hold events after `seq`, in order; `deliver` tells which are still to be sent.

        Whoever has read up to message `number` says so: then this is one look at the key's index.
        """
        mine = (messages.c.run_id == run_id, messages.c.number > number, messages.c.last_seq > seq)
        query = select(messages).where(*mine)
        return self._all(query.order_by(messages.c.number))

    def all(self, run_id: str) -> Sequence[Sealed]:
        """Return all messages of a run, in order, those without events too."""
        return self._all(select(messages).where(messages.c.run_id == run_id).order_by(messages.c.number))

    def _all(self, query: Any) -> list[Sealed]:
        rows = self.read(lambda connection: connection.execute(query).all())
        return [self._message(row) for row in rows]

    def _message(self, row: Any) -> Sealed:
        body, sources = self.vault.open(row.data_sealed)
        return Sealed(
            number=row.number,
            first_seq=row.first_seq,
            last_seq=row.last_seq,
            end_offset=row.end_offset,
            body=body,
            sources=[Source(*source) for source in sources],
            deliver=row.state == "sealed",
        )
