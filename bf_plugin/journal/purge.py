"""Removing what is old, a little at a time: between two batches the writer serves everybody else."""

from __future__ import annotations

import time

from sqlalchemy import Connection

from bf_plugin.journal.keys import KEY_LIFE
from bf_plugin.journal.sql import Statement
from bf_plugin.journal.states import ENDED

RUNS_A_BATCH = 20
MESSAGES_A_BATCH = 1000
"""Rows one batch may remove: some milliseconds of the writer."""

_THREADS_A_BATCH = 5
_VALUES_A_BATCH = 200

_KEYS = Statement("DELETE FROM bf_idempotency WHERE created_at < :before")
_VALUES = Statement(
    """
    DELETE FROM bf_plugin_values
    WHERE key IN (SELECT key FROM bf_plugin_values WHERE expires_at <= :now LIMIT :number)
    """
)
_OLD_RUNS = Statement(
    f"SELECT id FROM bf_runs WHERE ended_at < :before AND state = {ENDED!r} ORDER BY ended_at LIMIT :number"
)
_MESSAGES = Statement(
    """
    DELETE FROM bf_messages WHERE run_id = :run_id
    AND number IN (SELECT number FROM bf_messages WHERE run_id = :run_id LIMIT :number)
    """
)
_RUN = Statement("DELETE FROM bf_runs WHERE id = :run_id")
_THREADS = Statement(
    """
    DELETE FROM bf_threads WHERE id IN (
        SELECT id FROM bf_threads
        WHERE used_at < :before AND NOT EXISTS (SELECT 1 FROM bf_runs WHERE thread_id = bf_threads.id)
        ORDER BY used_at LIMIT :number
    )
    """
)


def purge_batch(connection: Connection, before: float) -> int:
    """Remove some of what ended, or was last used, before a time (POSIX seconds); return how much, 0 when none is left.

    Runs go with all they have; threads, with their items and state, once no run of theirs is left; values of plugins
    when they have expired, whatever `before` is.
    """
    now = time.time()
    _KEYS.run(connection, before=now - KEY_LIFE)
    removed = _VALUES.run(connection, now=now, number=_VALUES_A_BATCH)
    ids = [row.id for row in _OLD_RUNS.rows(connection, before=before, number=RUNS_A_BATCH)]
    if not ids:
        return removed + _THREADS.run(connection, before=before, number=_THREADS_A_BATCH)
    left = MESSAGES_A_BATCH
    for run_id in ids:
        left -= _MESSAGES.run(connection, run_id=run_id, number=left)
        if left <= 0:
            break
        left -= _RUN.run(connection, run_id=run_id)
    return removed + MESSAGES_A_BATCH - left
