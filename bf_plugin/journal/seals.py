"""Sealing messages: one by one, each behind its fence, or many at once where nothing stands against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from bf_plugin.errors import Fenced
from bf_plugin.journal.fence import fence, fence_undecided
from bf_plugin.journal.prepared import Prepared, insert_of
from bf_plugin.journal.records import RunEnded
from bf_plugin.journal.tables import messages, runs

_COLUMNS = tuple(column.name for column in messages.columns)
_ONE = insert_of(messages, *_COLUMNS)
_OF_A_RUN_ON_ITS_WAY = (
    select(*(bindparam(name, type_=messages.c[name].type) for name in _COLUMNS))
    .where(runs.c.id == bindparam("run_id"), runs.c.epoch == bindparam("epoch"))
    .where(runs.c.outcome.is_(None), runs.c.attempts == 0)
    .with_for_update()
)
_FENCED = Prepared(insert(messages).from_select(_COLUMNS, _OF_A_RUN_ON_ITS_WAY))


@dataclass(frozen=True, slots=True)
class Seal:
    """One message to be sealed, as a job of the writer: `row` by the names of its columns."""

    run_id: str
    epoch: int
    closing: bool
    row: dict[str, Any]

    def __call__(self, connection: Connection) -> None:
        """Insert it, if its driver still owns the run. Raises Fenced; RunEnded where the run has an outcome already."""
        if self.closing:
            fence(connection, self.run_id, self.epoch)
        else:
            fence_undecided(connection, self.run_id, self.epoch, progress=True)
        _ONE.execute(connection, self.row)


def seal_together(seals: Sequence[Seal], connection: Connection) -> bool:
    """Seal messages of different runs. Returns False if one of them may not be sealed: then all must be undone.

    Each row is inserted only if its run is still its driver's, undecided and had no takeover since the last message;
    the runs' rows are held (SQLite: the transaction holds the file), as each fence does for one.
    """
    if any(seal.closing for seal in seals):
        return _each(seals, connection)
    rows = [{**seal.row, "epoch": seal.epoch} for seal in seals]
    return _FENCED.execute_each(connection, rows) == len(rows)


def _each(seals: Sequence[Seal], connection: Connection) -> bool:
    try:
        for seal in seals:
            seal(connection)
    except (Fenced, RunEnded):
        return False
    return True
