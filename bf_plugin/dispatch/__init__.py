"""Which process drives a run. The use cases hand runs to a dispatcher, which starts drivers and brings them signals."""

from __future__ import annotations

from bf_plugin.dispatch.local import LocalDispatcher
from bf_plugin.dispatch.owner import Owner
from bf_plugin.dispatch.port import Dispatcher
from bf_plugin.journal.sqlite import SqliteFile
from bf_plugin.run.driver import Parts
from bf_plugin.runtime.loop import LoopThread

__all__ = ["Dispatcher", "create_dispatcher"]


def create_dispatcher(loop: LoopThread, parts: Parts, home: str | None) -> Dispatcher:
    """Return the dispatcher for where the journal lies.

    `home` names the host app that takes this process's messages, None when they go over HTTP: only processes of one
    home can take over from each other, where they are not known to be siblings.
    """
    database = parts.journal.database
    if isinstance(database, SqliteFile):
        return LocalDispatcher(loop, parts, Owner(database.lock_folder), database)
    from bf_plugin.dispatch.postgres import PostgresDispatcher

    return PostgresDispatcher(loop, parts, database, home)
