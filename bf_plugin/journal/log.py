"""Rows of sealed messages: what is sent, and the event log of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Connection, Engine

from bf_plugin.gateway.events import events_in
from bf_plugin.journal.base import Base
from bf_plugin.journal.fence import fence
from bf_plugin.journal.records import Sealed, Source
from bf_plugin.journal.seals import Groups, Seal
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.states import SEALED, UNSENT, MessageState
from bf_plugin.journal.vault import Box, Vault
from bf_plugin.journal.writer import Writer

_ALL = Statement("SELECT * FROM bf_messages WHERE run_id = :run_id ORDER BY number")
_AFTER = Statement(
    "SELECT * FROM bf_messages WHERE run_id = :run_id AND number > :number AND last_seq > :seq ORDER BY number"
)
_NEWEST = Statement("SELECT * FROM bf_messages WHERE run_id = :run_id ORDER BY number DESC LIMIT 1")
_SETTLE = Statement("UPDATE bf_messages SET state = :state WHERE run_id = :run_id AND number = :number")


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
        newest = self._messages(run_id, _NEWEST)
        return any(event["type"] == "end" for message in newest for event in events_in(message.body))

    def after(self, run_id: str, seq: int = 0, number: int = 0) -> Sequence[Sealed]:
        """Return the messages that hold events after `seq`, in order.

        Whoever has read up to message `number` says so: then this is one look at the key's index.
        """
        return self._messages(run_id, _AFTER, number=number, seq=seq)

    def all(self, run_id: str) -> Sequence[Sealed]:
        """Return all messages of a run, in order, those without events too.

        `deliver` of the last tells whether it is still to be sent.
        """
        return self._messages(run_id, _ALL)

    def _messages(self, run_id: str, query: Statement, **values: int) -> list[Sealed]:
        rows = self.read(lambda connection: query.rows(connection, run_id=run_id, **values))
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

        def job(connection: Connection) -> None:
            fence(connection, self._run_id, self._epoch)
            _SETTLE.run(connection, run_id=self._run_id, number=number, state=state)

        return self._writer.commit(job, self._run_id)


def _message(row: Any, box: Box) -> Sealed:
    body, sources = box.open(row.data_sealed, row.number)
    return Sealed(
        number=row.number,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        end_offset=row.end_offset,
        body=body,
        sources=[Source(*source) for source in sources],
        deliver=row.state == SEALED,
    )
