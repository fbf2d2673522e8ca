"""The journal on Postgres: what SQLite has no part in. The rest of its tests run on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text, update

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.journal import CANCELLED, Journal, RunRecord, ThreadBusy, open_journal
from bf_plugin.journal.postgres import Listener, PostgresServer
from bf_plugin.journal.records import Sealed
from bf_plugin.journal.tables import runs
from bf_plugin.testing import records
from bf_plugin.testing.records import a_run
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


@pytest.fixture
def boot(postgres_url: str) -> Iterator[Callable[[], Journal]]:
    """Return a function that opens the journal as one more process does."""
    opened: list[Journal] = []

    def make() -> Journal:
        opened.append(open_journal(postgres_url, [KEY]))
        return opened[-1]

    yield make
    for journal in opened:
        journal.close()


def record(**changes: Any) -> RunRecord:
    return a_run(**changes)


def create(journal: Journal, run: RunRecord, *, new: bool = True, enqueue: bool = False) -> RunRecord:
    return journal.runs.create(run, new_thread=new, enqueue=enqueue, timeout=600).result(20)


def seal(journal: Journal, run: RunRecord, number: int) -> None:
    message = Sealed(number=number, first_seq=number, last_seq=number, end_offset=0, body=b"{}")
    records.seal(journal, run, message)


def test_many_processes_boot_at_once(postgres_url: str) -> None:
    """The tables are made once; nobody sees them half made."""
    with ThreadPoolExecutor(6) as pool:
        journals = list(pool.map(lambda _: open_journal(postgres_url, [KEY]), range(6)))
    assert [create(journal, record()).state for journal in journals] == ["starting"] * 6
    for journal in journals:
        journal.close()


@pytest.mark.parametrize(("version", "problem"), [(99, "a newer release made them"), (0, "the change log says")])
def test_tables_of_another_release_are_refused(postgres_url: str, version: int, problem: str) -> None:
    """Older or newer, the message says what to do; nothing is touched."""
    open_journal(postgres_url, [KEY]).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE bf_schema SET version = %s", [version])

    with pytest.raises(ConfigurationError, match=problem):
        open_journal(postgres_url, [KEY])


def test_what_keeps_it_from_opening_is_said(postgres_url: str, tmp_path: Any) -> None:
    """No key, no server, no database, no journal: each with its remedy, and without the password."""
    with pytest.raises(ConfigurationError, match="BF_SECRET_KEY"):
        open_journal(postgres_url)
    with pytest.raises(JournalError, match="see that the server runs") as caught:
        open_journal("postgresql://someone:hunter2@127.0.0.1:1/db", [KEY])
    assert "hunter2" not in str(caught.value)
    with pytest.raises(JournalError, match="create it, or correct BF_DATABASE_URL"):
        open_journal(postgres_url.replace("/bf_", "/no_"), [KEY])
    with pytest.raises(ConfigurationError, match="no journal in this database"):
        open_journal(postgres_url, [KEY], create=False)


def test_a_read_only_database_is_said(postgres_url: str, boot: Callable[[], Journal]) -> None:
    """As after a failover that left this process at the standby."""
    journal = boot()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("ALTER DATABASE " + connection.info.dbname + " SET default_transaction_read_only = on")
    disconnect(postgres_url)

    with pytest.raises(JournalError, match="connect to the primary"):
        create(journal, record())


def disconnect(url: str) -> None:
    """End all sessions of a database but this one, as a restart does."""
    with psycopg.connect(url, autocommit=True) as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


def test_writes_and_reads_outlive_their_connections(postgres_url: str, boot: Callable[[], Journal]) -> None:
    """Each message is there once, however often the server hangs up."""
    journal = boot()
    run = create(journal, record())
    with ThreadPoolExecutor(1) as pool:
        for number in range(1, 40):
            writing = pool.submit(seal, journal, run, number)
            if number % 5 == 0:
                disconnect(postgres_url)
            writing.result(20)
            assert [row.number for row in journal.log.all(run.id)] == list(range(1, number + 1))


def test_a_commit_without_an_answer_is_looked_up(boot: Callable[[], Journal], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks behind the commit is no reason to write twice, nor to say that it failed."""
    journal = boot()
    run = create(journal, record())
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    commit, broken = PGDialect_psycopg.do_commit, threading.Event()

    def break_off(self: Any, connection: Any) -> None:
        commit(self, connection)  # type: ignore[no-untyped-call]
        if not broken.is_set():
            broken.set()
            connection.dbapi_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(PGDialect_psycopg, "do_commit", break_off)
    seal(journal, run, 1)

    assert broken.is_set()
    assert [row.number for row in journal.log.all(run.id)] == [1]


def test_processes_that_lock_each_other_out_both_get_through(boot: Callable[[], Journal]) -> None:
    """A deadlock is resolved by trying again, whatever order rows were locked in."""
    first, second = boot(), boot()
    one, two = create(first, record()), create(first, record())
    locked = threading.Barrier(2)
    tries: list[str] = []

    def lock(name: str, *ids: str) -> Callable[[Connection], None]:
        def job(connection: Connection) -> None:
            tries.append(name)
            connection.execute(update(runs).where(runs.c.id == ids[0]).values(attempts=1))
            if tries.count(name) == 1:
                locked.wait(10)
            connection.execute(update(runs).where(runs.c.id == ids[1]).values(attempts=2))

        return job

    writes = [first.runs.write(lock("a", one.id, two.id)), second.runs.write(lock("b", two.id, one.id))]

    for write in writes:
        write.result(20)
    assert len(tries) == 3


def test_a_frozen_process_keeps_no_rows(postgres_url: str, boot: Callable[[], Journal]) -> None:
    """What a process that stands still in mid-transaction has locked is free again within seconds."""
    journal, frozen = boot(), boot()
    run = create(journal, record())
    in_transaction, thaw = threading.Event(), threading.Event()
    tries: list[int] = []

    def stand_still(connection: Connection) -> None:
        tries.append(1)
        connection.execute(update(runs).where(runs.c.id == run.id).values(attempts=7))
        if len(tries) == 1:
            in_transaction.set()
            thaw.wait(20)
        connection.execute(text("SELECT 1"))

    standing = frozen.runs.write(stand_still)
    assert in_transaction.wait(10)

    adopted = journal.runs.adopt(run.id, 1, "other").result(20)

    assert adopted is not None
    assert adopted.attempts == 1
    thaw.set()
    standing.result(20)


def test_one_run_a_thread_over_processes(boot: Callable[[], Journal]) -> None:
    """Of starts that come at once on one thread, one is first and the others are told."""
    journals = [boot() for _ in range(4)]
    thread = create(journals[0], record())
    journals[0].runs.finish(thread.id, 1, usage=Usage(), cut=None, timeout=600).result(10)

    def start(journal: Journal) -> str:
        try:
            return create(journal, record(thread_id=thread.thread_id), new=False).state
        except ThreadBusy:
            return "busy"

    with ThreadPoolExecutor(4) as pool:
        states = sorted(pool.map(start, journals))

    assert states == ["busy", "busy", "busy", "starting"]


def test_a_queued_run_is_never_left_behind(boot: Callable[[], Journal]) -> None:
    """A run that is queued while the one before it ends in another process starts, whichever is first."""
    ending, starting = boot(), boot()
    for _ in range(25):
        first = create(ending, record())
        together = threading.Barrier(2)

        def end(run: RunRecord = first, together: threading.Barrier = together) -> RunRecord | None:
            together.wait(10)
            return ending.runs.finish(run.id, 1, usage=Usage(), cut=None, timeout=600).result(10)

        def follow(run: RunRecord = first, together: threading.Barrier = together) -> RunRecord:
            together.wait(10)
            return create(starting, record(thread_id=run.thread_id), new=False, enqueue=True)

        with ThreadPoolExecutor(2) as pool:
            promoted, queued = pool.submit(end), pool.submit(follow)
            second = queued.result(20)
            assert (promoted.result(20) is None) == (second.state == "starting")
        found = starting.runs.find(second.id)
        assert found is not None
        assert found.state == "starting"


def test_signals_reach_the_owner(postgres_url: str, boot: Callable[[], Journal]) -> None:
    """A decision names whom it is for, once it is committed."""
    journal = boot()
    assert isinstance(journal.database, PostgresServer)
    listener = journal.database.listen()
    assert listener.wait(5) == {""}
    run = create(journal, record())

    journal.runs.decide(run.id, CANCELLED).result(10)

    assert listener.wait(5) == {"me"}
    assert listener.wait(0.01) == set()
    listener.close()


def test_a_listener_comes_back(postgres_url: str) -> None:
    """A lost connection is said once, and the next one counts as a signal for everybody."""
    listener = Listener(postgres_url)
    listener.wait(5)
    disconnect(postgres_url)

    with pytest.raises(JournalError, match="no signals"):
        listener.wait(5)

    assert listener.wait(5) == {""}
    listener.close()


def test_owners_come_and_go(boot: Callable[[], Journal]) -> None:
    """A process is on record with its first beat, and stays as long as a run needs to be found by it."""
    journal = boot()
    owners = journal.owners
    owners.beat("me").result(10)
    run = create(journal, record())
    assert owners.is_alive("me", 60)
    assert not owners.is_alive("me", -1)
    assert owners.runs_of([]) == []

    owners.leave("me").result(10)
    owners.forget(["me"]).result(10)

    assert not owners.is_alive("me", 60)
    assert [(row.id, row.left) for row in owners.all()] == [("me", True)]
    assert owners.runs_of(["me"]) == [(run.id, 1, "me")]
    journal.runs.finish(run.id, 1, usage=Usage(), cut=None, timeout=600).result(10)
    owners.forget(["me"]).result(10)
    assert owners.all() == []
