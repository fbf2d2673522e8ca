"""Commits on the event loop itself: at once or not at all; and checkpoints beside those who write."""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from bf_plugin.errors import Fenced
from bf_plugin.journal import sqlite
from bf_plugin.journal.direct import REST, SLOW, Direct
from bf_plugin.journal.sqlite import SqliteFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqliteFile]:
    """Return a database with a table of notes."""
    place = SqliteFile(tmp_path / "journal.db")
    engine = place.tables_engine()
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT UNIQUE)")
    engine.dispose()
    yield place
    place.close()


@pytest.fixture
def direct(file: SqliteFile) -> Iterator[Direct]:
    """Return the direct way into it."""
    way = file.direct()
    way._clock = lambda: 0.0  # no commit is slow here, however busy the machine is
    yield way
    way.close()


def note(connection: Connection, text: str) -> bool:
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.cursor().execute("INSERT INTO notes VALUES (?)", (text,))
    return True


def notes(file: SqliteFile) -> list[str]:
    with closing(sqlite3.connect(file.path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")]


def test_what_is_done_is_committed(file: SqliteFile, direct: Direct) -> None:
    """And seen by others at once."""
    assert direct.commit(lambda connection: note(connection, "a"), 1)
    assert direct.commit(lambda connection: note(connection, "b"), 1)
    assert notes(file) == ["a", "b"]


def test_what_may_not_be_done_changes_nothing(file: SqliteFile, direct: Direct) -> None:
    """What a fence refuses is its result, and the next is not hindered."""

    def refused(connection: Connection) -> None:
        raise Fenced("another driver took it over")

    done = direct.commit(refused, 1)
    assert done is not None
    assert isinstance(done.exception(), Fenced)
    assert direct.commit(lambda connection: note(connection, "b"), 1)
    assert notes(file) == ["b"]


def test_a_failure_changes_nothing(file: SqliteFile, direct: Direct) -> None:
    """A violated constraint, say: half of the work is undone."""
    assert direct.commit(lambda connection: note(connection, "a"), 1)
    assert not direct.commit(lambda connection: note(connection, "b") and note(connection, "a"), 2)
    assert notes(file) == ["a"]
    assert direct.commit(lambda connection: note(connection, "c"), 1)


def test_a_defect_is_not_hidden(file: SqliteFile, direct: Direct) -> None:
    """What is no failure of the database is raised, and undone."""
    with pytest.raises(ZeroDivisionError):
        direct.commit(lambda connection: note(connection, "a") and bool(1 / 0), 1)
    assert direct.commit(lambda connection: note(connection, "b"), 1)
    assert notes(file) == ["b"]


def test_another_writer_is_not_waited_for(file: SqliteFile, direct: Direct) -> None:
    """The loop drives all runs: it asks the writer instead, whose thread may wait."""
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not direct.commit(lambda connection: note(connection, "a"), 1)
        other.execute("COMMIT")
    assert direct.commit(lambda connection: note(connection, "b"), 1)
    assert notes(file) == ["b"]


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """Nothing is done, and nothing raised: the writer will say what it is."""
    direct = SqliteFile(tmp_path / "nowhere" / "journal.db").direct()
    assert not direct.commit(lambda connection: note(connection, "a"), 1)


def test_a_slow_disk_is_left_to_the_writer(file: SqliteFile) -> None:
    """After a commit that took long the loop does not try for a while, then once more."""
    now = [100.0]
    direct = file.direct()
    direct._clock = lambda: now[0]

    def slow(connection: Connection) -> bool:
        now[0] += 2 * SLOW
        return note(connection, f"at {now[0]}")

    assert direct.commit(slow, 1), "it was done, however slowly"
    assert not direct.commit(slow, 1)
    now[0] += 1.5 * REST
    assert direct.commit(slow, 1)
    direct.close()
    assert len(notes(file)) == 2


def test_the_log_does_not_grow_while_others_write(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a load that never pauses it begins again and again from its start; every write is there."""
    monkeypatch.setattr(sqlite, "EVERY", 200)
    log = file.path.with_name(file.path.name + "-wal")
    ways = [file.direct(), file.direct()]
    stop = time.monotonic() + 20
    written: list[list[str]] = [[], []]
    restarts = 0

    def write(way: Direct, mine: list[str], who: int) -> None:
        while time.monotonic() < stop and restarts < 3:
            text = f"{who} {len(mine)}"
            if way.commit(functools.partial(note, text=text), 1):
                mine.append(text)

    assert ways[0].commit(functools.partial(note, text="the first"), 1)  # from now on there is a log
    threads = [threading.Thread(target=write, args=(way, written[who], who)) for who, way in enumerate(ways)]
    for thread in threads:
        thread.start()
    salt = b""
    while time.monotonic() < stop and restarts < 3:
        present = _salt(log)
        restarts += bool(salt and present != salt)
        salt = present
        time.sleep(0.001)
    for thread in threads:
        thread.join()
    for way in ways:
        way.close()
    assert restarts >= 3, "the log never began again"
    assert sorted(notes(file)) == sorted(["the first", *written[0], *written[1]])


def _salt(log: Path) -> bytes:
    """Return what changes in a log's header each time it begins again (sqlite.org/fileformat2.html, 4.1)."""
    with log.open("rb") as file:
        return file.read(32)[16:24]


def test_a_long_reader_makes_nobody_wait(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup, say, keeps the log from beginning again: then that is not tried, since writers would stand still."""
    monkeypatch.setattr(sqlite, "EVERY", 20)
    monkeypatch.setattr(sqlite, "FEW", 10)
    direct = file.direct()
    direct._clock = lambda: 0.0  # no commit is slow here
    with closing(sqlite3.connect(file.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM notes").fetchall()
        for number in range(20):  # more than is left for the second part
            assert direct.commit(functools.partial(note, text=f"{number} {'x' * 5000}"), 0)
        refused = sum(not direct.commit(functools.partial(note, text=f"then {number}"), 1) for number in range(1000))
        reader.execute("COMMIT")
    direct.close()
    assert refused == 0
