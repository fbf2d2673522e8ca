"""Looking into a deployment's database, whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from bf_plugin.journal.store import database_of
from bf_plugin.settings import Settings


@contextmanager
def looking_into(settings: Settings) -> Iterator[Connection]:
    """Connect to read."""
    place = database_of(str(settings.database_url))
    writers, readers = place.engines()
    with readers.connect() as connection:
        yield connection
    for engine in (writers, readers):
        engine.dispose()
