"""What every write of a driver begins with: does it still own its run?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, literal_column, select, text, update

from bf_plugin.errors import Fenced
from bf_plugin.journal.prepared import Prepared
from bf_plugin.journal.records import Ending, RunEnded
from bf_plugin.journal.states import ENDED
from bf_plugin.journal.tables import runs

_mine = (runs.c.id == bindparam("run_id"), runs.c.epoch == bindparam("in_epoch"))
_undecided = update(runs).where(*_mine, runs.c.outcome.is_(None))
_OWNED = Prepared(update(runs).where(*_mine, runs.c.state != literal_column(f"'{ENDED}'")).values(epoch=runs.c.epoch))
_UNDECIDED = Prepared(_undecided.values(epoch=runs.c.epoch))
_PROGRESS = Prepared(_undecided.values(attempts=text("0")))


def fence(connection: Connection, run_id: str, epoch: int) -> None:
    """Raise Fenced unless the driver of `epoch` owns the run; locks its row for the rest of the transaction."""
    if _OWNED.execute(connection, {"run_id": run_id, "in_epoch": epoch}) != 1:
        raise Fenced("another driver took this run over, or it has ended")


def fence_undecided(connection: Connection, run_id: str, epoch: int, *, progress: bool = False) -> None:
    """Like `fence`, and raise RunEnded when the run has an outcome already.

    `progress` marks that the run has come further, so that takeovers so far do not count against it.
    """
    statement = _PROGRESS if progress else _UNDECIDED
    if statement.execute(connection, {"run_id": run_id, "in_epoch": epoch}) != 1:
        fence(connection, run_id, epoch)
        status, reason, _ = outcome_of(connection, run_id)
        raise RunEnded(Ending(status=status, finish_reason=reason, won=False))


def outcome_of(connection: Connection, run_id: str) -> Any:
    """Return the outcome, finish reason and sealed error of a run."""
    query = select(runs.c.outcome, runs.c.finish_reason, runs.c.error_sealed).where(runs.c.id == run_id)
    return connection.execute(query).one()
