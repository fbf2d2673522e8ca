"""What a write does with its run's row: it checks first that its driver owns the run, and wakes that driver at last.

The row that says what happened is what counts; wake-ups only hurry it. On Postgres they travel with the transaction, as
notifications. SQLite has none: who is to be woken is noted beside the connection, and whoever commits touches the marks
of these processes afterwards.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from bf_plugin.errors import Fenced
from bf_plugin.journal.records import Ending, RunEnded
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.states import ENDED

CHANNEL = "bf_signals"
"""Postgres: NOTIFY with the owner's name, nothing for all owners."""

# An update locks the row. Reading first and writing then would leave a gap for a takeover.
_OWNED = Statement(
    f"UPDATE bf_runs SET epoch = epoch WHERE id = :run_id AND epoch = :epoch AND state != {ENDED!r}",
)
_OPEN = Statement("UPDATE bf_runs SET epoch = epoch WHERE id = :run_id AND epoch = :epoch AND outcome IS NULL")
_PROGRESS = Statement("UPDATE bf_runs SET attempts = 0 WHERE id = :run_id AND epoch = :epoch AND outcome IS NULL")
_OUTCOME = Statement("SELECT outcome, finish_reason, error_sealed FROM bf_runs WHERE id = :run_id")
_OWNER = Statement("SELECT owner FROM bf_runs WHERE id = :run_id")
_NOTIFY = Statement("SELECT pg_notify(:channel, coalesce(owner, '')) FROM bf_runs WHERE id = :run_id")
_NOTIFY_ALL = Statement("SELECT pg_notify(:channel, '')")
_NOTED = "bf_signals"


def fence(connection: Connection, run_id: str, epoch: int) -> None:
    """Raise Fenced unless the driver of `epoch` owns the run; locks its row for the rest of the transaction."""
    if _OWNED.run(connection, run_id=run_id, epoch=epoch) != 1:
        raise Fenced("another driver took this run over, or it has ended")


def fence_open(connection: Connection, run_id: str, epoch: int, *, progress: bool = False) -> None:
    """Like `fence`, and raise RunEnded when the run has an outcome already.

    `progress` marks that the run has come further, so that takeovers so far do not count against it.
    """
    statement = _PROGRESS if progress else _OPEN
    if statement.run(connection, run_id=run_id, epoch=epoch) != 1:
        fence(connection, run_id, epoch)
        row = outcome_of(connection, run_id)
        raise RunEnded(Ending(status=row.outcome, finish_reason=row.finish_reason, won=False))


def outcome_of(connection: Connection, run_id: str) -> Any:
    """Return the outcome, finish reason and sealed error of a run."""
    return _OUTCOME.row(connection, run_id=run_id)


def signal_driver(connection: Connection, run_id: str) -> None:
    """Wake the owner of a run once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        _NOTIFY.rows(connection, channel=CHANNEL, run_id=run_id)
    elif (name := _OWNER.value(connection, run_id=run_id)) is not None:
        connection.info.setdefault(_NOTED, set()).add(name)


def signal_all(connection: Connection) -> None:
    """Wake all processes once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        _NOTIFY_ALL.rows(connection, channel=CHANNEL)


def signalled(connection: Connection) -> set[str]:
    """Return whom the transaction on a connection wants to wake, and forget them."""
    if connection.closed or connection.invalidated:
        return set()
    noted: set[str] = connection.info.pop(_NOTED, set())
    return noted
