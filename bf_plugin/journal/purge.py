"""Removing what is old, a little at a time: between two batches the writer serves everybody else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import Connection, delete, exists, select

from bf_plugin.journal.keys import KEY_LIFE
from bf_plugin.journal.states import ENDED
from bf_plugin.journal.tables import keys, messages, plugin_values, runs, threads

RUNS_A_BATCH = 20
MESSAGES_A_BATCH = 1000
"""Rows one batch may remove: some milliseconds of the writer."""

_THREADS_A_BATCH = 5
_VALUES_A_BATCH = 200


def purge_batch(connection: Connection, before: float) -> int:
    """Remove some of what ended, or was last used, before a time (POSIX seconds); return how much, 0 when none is left.

    Runs go with all they have; threads, with their items and state, once no run of theirs is left; values of plugins
    when they have expired, whatever `before` is.
    """
    now = time.time()
    connection.execute(delete(keys).where(keys.c.created_at < now - KEY_LIFE))
    expired = _purge_values(connection, now)
    old = select(runs.c.id).where(runs.c.ended_at < before, runs.c.state == ENDED)
    ids = connection.execute(old.order_by(runs.c.ended_at).limit(RUNS_A_BATCH)).scalars().all()
    return expired + (_purge_runs(connection, ids) if ids else _purge_threads(connection, before))


def _purge_values(connection: Connection, now: float) -> int:
    expired = select(plugin_values.c.key).where(plugin_values.c.expires_at <= now).limit(_VALUES_A_BATCH)
    return connection.execute(delete(plugin_values).where(plugin_values.c.key.in_(expired))).rowcount


def _purge_runs(connection: Connection, ids: Sequence[str]) -> int:
    removed = 0
    for run_id in ids:
        some = select(messages.c.number).where(messages.c.run_id == run_id).limit(MESSAGES_A_BATCH - removed)
        mine = delete(messages).where(messages.c.run_id == run_id, messages.c.number.in_(some))
        removed += connection.execute(mine).rowcount
        if removed >= MESSAGES_A_BATCH:
            break
        removed += connection.execute(delete(runs).where(runs.c.id == run_id)).rowcount
    return removed


def _purge_threads(connection: Connection, before: float) -> int:
    unused = (threads.c.used_at < before, ~exists().where(runs.c.thread_id == threads.c.id))
    some = select(threads.c.id).where(*unused).order_by(threads.c.used_at).limit(_THREADS_A_BATCH)
    return connection.execute(delete(threads).where(threads.c.id.in_(some))).rowcount
