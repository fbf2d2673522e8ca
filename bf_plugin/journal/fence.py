"""What every write of a driver begins with: does it still own its run?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select, update

from bf_plugin.errors import Fenced
from bf_plugin.journal.records import Decided, Decision
from bf_plugin.journal.tables import runs


def fence(connection: Connection, run_id: str, epoch: int) -> None:
    """Raise Fenced unless the driver of `epoch` owns the run; locks its row for the rest of the transaction."""
    owned = update(runs).where(runs.c.id == run_id, runs.c.epoch == epoch, runs.c.state != "ended")
    if connection.execute(owned.values(epoch=epoch)).rowcount != 1:
        raise Fenced("another driver took this run over, or it has ended")


def fence_undecided(connection: Connection, run_id: str, epoch: int, *, progress: bool = False) -> None:
    """Like `fence`, and raise Decided when the run has an outcome already.

    `progress` marks that the run has come further, so that takeovers so far do not count against it.
    """
    undecided = update(runs).where(runs.c.id == run_id, runs.c.epoch == epoch, runs.c.outcome.is_(None))
    change = {"epoch": epoch, "attempts": 0} if progress else {"epoch": epoch}
    if connection.execute(undecided.values(**change)).rowcount != 1:
        fence(connection, run_id, epoch)
        row = outcome_of(connection, run_id)
        raise Decided(Decision(won=False, outcome=row.outcome, finish_reason=row.finish_reason))


def outcome_of(connection: Connection, run_id: str) -> Any:
    """Return the outcome, finish reason and sealed error of a run."""
    query = select(runs.c.outcome, runs.c.finish_reason, runs.c.error_sealed).where(runs.c.id == run_id)
    return connection.execute(query).one()
