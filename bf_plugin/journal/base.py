"""What the stores share: a writer, a pool of readers, the vault."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bf_plugin.journal.failures import OUTAGE, explain, passes, pauses
from bf_plugin.journal.vault import Vault
from bf_plugin.journal.writer import Writer

T = TypeVar("T")


class Base:
    """A part of the journal. Writes return futures that resolve after their commit; reads block for a query."""

    def __init__(self, readers: Engine, writer: Writer, vault: Vault) -> None:
        self._readers = readers
        self._writer = writer
        self.vault = vault

    def write(self, job: Callable[[Connection], T], key: str = "") -> Future[T]:
        """Have `job` committed; `key` is the run whose row it begins with."""
        return self._writer.commit(job, key)

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` on a reader's connection. Raises JournalError when the database fails."""
        tries = pauses(OUTAGE)
        while True:
            try:
                with self._readers.connect() as connection:
                    return query(connection)
            except SQLAlchemyError as error:
                pause = next(tries, None) if passes(error) else None
                if pause is None:
                    raise explain(error) from None
                time.sleep(pause)
