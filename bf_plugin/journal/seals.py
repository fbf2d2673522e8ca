"""Sealing messages: one by one, each behind its fence, or many at once where nothing stands against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select

from bf_plugin.journal.fence import fence, fence_undecided
from bf_plugin.journal.prepared import Prepared
from bf_plugin.journal.tables import messages, runs

_ONE = Prepared(insert(messages))
_MOST = 64
"""Messages sealed by one statement. There are statements for powers of two only; other groups take several."""


@dataclass(frozen=True, slots=True)
class Seal:
    """One message to be sealed, as a job of the writer: `row` by the names of its columns."""

    run_id: str
    epoch: int
    closing: bool
    row: dict[str, Any]

    def __call__(self, connection: Connection) -> None:
        """Insert it, if its driver still owns the run. Raises Fenced; Decided where the run has an outcome already."""
        if self.closing:
            fence(connection, self.run_id, self.epoch)
        else:
            fence_undecided(connection, self.run_id, self.epoch, progress=True)
        _ONE.execute(connection, self.row)


def seal_together(seals: Sequence[Seal], connection: Connection) -> bool:
    """Seal messages of different runs, if all of them may be; else change nothing and return False.

    That all runs are still their drivers', undecided and on their way is asked in one statement, which holds their
    rows (SQLite: the transaction holds the file), as each fence does for one.
    """
    if any(seal.closing for seal in seals):
        return False
    if not all(_may_be_sealed(connection, seals[start : start + _MOST]) for start in range(0, len(seals), _MOST)):
        return False
    for part in _parts(seals):
        values = {f"{name}_{place}": value for place, seal in enumerate(part) for name, value in seal.row.items()}
        _insertion(len(part)).execute(connection, values)
    return True


def _may_be_sealed(connection: Connection, seals: Sequence[Seal]) -> bool:
    size = 1 << (len(seals) - 1).bit_length()
    asked = [(seal.run_id, seal.epoch) for seal in seals] + [("", 0)] * (size - len(seals))
    values: dict[str, Any] = {f"id_{place}": run_id for place, (run_id, _) in enumerate(asked)}
    values |= {f"epoch_{place}": epoch for place, (_, epoch) in enumerate(asked)}
    standing, attempts = _question(size).row(connection, values) or (0, 0)
    return bool(standing == len(seals) and not attempts)


def _parts(seals: Sequence[Seal]) -> Iterator[Sequence[Seal]]:
    """Yield all, in as few pieces as there are statements for."""
    start = 0
    while rest := len(seals) - start:
        size = min(1 << (rest.bit_length() - 1), _MOST)
        yield seals[start : start + size]
        start += size


@cache
def _question(count: int) -> Prepared:
    """Return the question how many of some runs are their drivers' and undecided, and whether they had takeovers."""
    mine = [
        and_(runs.c.id == bindparam(f"id_{place}"), runs.c.epoch == bindparam(f"epoch_{place}"))
        for place in range(count)
    ]
    held = select(runs.c.attempts).where(runs.c.outcome.is_(None), or_(*mine)).order_by(runs.c.id).with_for_update()
    inner = held.subquery("held")
    return Prepared(select(func.count(), func.max(inner.c.attempts)).select_from(inner))


@cache
def _insertion(count: int) -> Prepared:
    names = [column.name for column in messages.columns]
    rows: list[dict[str, Any]] = [{name: bindparam(f"{name}_{place}") for name in names} for place in range(count)]
    return Prepared(insert(messages).values(rows))
