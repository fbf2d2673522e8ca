"""Rows of sealed messages: what is sent, and the event log of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, select, update

from bf_plugin.gateway.events import events_in
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence
from bf_plugin.journal.groups import Groups
from bf_plugin.journal.prepared import Prepared
from bf_plugin.journal.records import Sealed, Source
from bf_plugin.journal.seals import Seal
from bf_plugin.journal.states import SEALED, UNSENT, MessageState
from bf_plugin.journal.tables import messages
from bf_plugin.journal.vault import Box, Vault
from bf_plugin.journal.writer import Writer

_SETTLE = Prepared(
    update(messages)
    .where(messages.c.run_id == bindparam("in_run"), messages.c.number == bindparam("at"))
    .values(state=bindparam("state"))
)


class MessageLog(Base):
    """The messages of runs, in order."""

    def __init__(self, readers: Engine, writer: Writer, vault: Vault) -> None:
        super().__init__(readers, writer, vault)
        self._groups = Groups(writer)

    def of(self, run_id: str, epoch: int) -> RunLog:
        """Return where the driver of a run, in an epoch, puts what it says."""
        return RunLog(self._groups, self._writer, self.vault.box(run_id), run_id, epoch)

    def has_end(self, run_id: str) -> bool:
        """Tell whether a run's `end` is sealed: it is always in the newest message."""
        newest = self._read(run_id, select(messages).order_by(messages.c.number.desc()).limit(1))
        return any(event["type"] == "end" for row in newest for event in events_in(row.body))

    def after(self, run_id: str, seq: int = 0, number: int = 0) -> Sequence[Sealed]:
        """Return the messages that hold events after `seq`, in order.

        Whoever has read up to message `number` says so: then this is one look at the key's index.
        """
        query = select(messages).where(messages.c.number > number, messages.c.last_seq > seq)
        return self._read(run_id, query.order_by(messages.c.number))

    def all(self, run_id: str) -> Sequence[Sealed]:
        """Return all messages of a run, in order, those without events too.

        `deliver` of the last tells whether it is still to be sent.
        """
        return self._read(run_id, select(messages).order_by(messages.c.number))

    def _read(self, run_id: str, query: Any) -> list[Sealed]:
        mine = query.where(messages.c.run_id == run_id)
        rows = self.read(lambda connection: connection.execute(mine).all())
        box = self.vault.box(run_id)
        return [_message(row, box) for row in rows]


class RunLog:
    """The messages of one run, written by its driver on the event loop."""

    def __init__(self, groups: Groups, writer: Writer, box: Box, run_id: str, epoch: int) -> None:
        self._groups = groups
        self._writer = writer
        self._box = box
        self._run_id = run_id
        self._epoch = epoch

    def seal(self, message: Sealed, *, closing: bool) -> asyncio.Future[None]:
        """Commit a message before its first byte is sent, together with what other runs seal now.

        Raises Fenced, and RunEnded when the run has an outcome and this is not part of its `closing`.
        """
        row = {
            "run_id": self._run_id,
            "number": message.number,
            "first_seq": message.first_seq,
            "last_seq": message.last_seq,
            "end_offset": message.end_offset,
            "state": SEALED if message.deliver else UNSENT,
            "data_sealed": self._box.seal((message.body, message.sources), message.number),
        }
        return self._groups.add(Seal(self._run_id, self._epoch, closing, row))

    def settle(self, number: int, state: MessageState) -> Future[None]:
        """Mark a message `accepted` or `unsent`. Raises Fenced.

        Need not be called for one that another follows: none is sealed before the one before it was accepted.
        """
        values = {"in_run": self._run_id, "at": number, "state": state}

        def job(connection: Connection) -> None:
            fence(connection, self._run_id, self._epoch)
            _SETTLE.execute(connection, values)

        return self._writer.submit(job, self._run_id)


def _message(row: Any, box: Box) -> Sealed:
    body, sources = box.open(bytes(row.data_sealed), row.number)
    return Sealed(
        number=row.number,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        end_offset=row.end_offset,
        body=body,
        sources=[Source(*source) for source in sources],
        deliver=row.state == SEALED,
    )
