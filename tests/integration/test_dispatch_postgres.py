"""The Postgres dispatcher, several of it in one process: who drives what, when nobody is killed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from bf_plugin.cli import main
from bf_plugin.dispatch.postgres import Jobs, PostgresDispatcher, install
from bf_plugin.errors import JournalError
from bf_plugin.gateway import events
from bf_plugin.gateway.messengers import Destination
from bf_plugin.journal import CANCELLED, RunRecord, open_journal
from bf_plugin.journal.postgres import Listener, PostgresServer
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager
from bf_plugin.run.driver import Parts
from bf_plugin.run.pace import Pace
from bf_plugin.run.ticket import Ticket
from bf_plugin.runtime.ids import new_thread_id
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.engine import ScriptedEngine
from bf_plugin.testing.records import a_run
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


class Gateway:
    """A messenger that remembers events."""

    def __init__(self) -> None:
        self._bodies: list[bytes] = []

    async def send(self, destination: Destination, message: bytes) -> None:
        self._bodies.append(message)

    async def aclose(self) -> None:
        pass

    def types(self) -> list[str]:
        return [event["type"] for body in self._bodies for event in events.events_in(body)]


class Process:
    """A dispatcher and what it needs, as one process has it."""

    def __init__(self, url: str, home: str | None, engine: ScriptedEngine) -> None:
        self.journal = open_journal(url, [KEY])
        self.gateway = Gateway()
        self.loop = LoopThread()
        assert isinstance(self.journal.database, PostgresServer)
        parts = Parts(
            journal=self.journal,
            hooks=HookCalls(new_manager(), Workers("test", limit=1)),
            settings=Settings(coalesce_ms=0, heartbeat=0.1, heartbeat_timeout=0.6),
            pace=Pace(0),
            engine=lambda name: engine,
            messenger=lambda record: self.gateway,
        )
        self.dispatcher = PostgresDispatcher(self.loop, parts, self.journal.database, home)
        self.dispatcher.start()

    def record(self, *, owner: str | None = None, thread_id: str | None = None) -> RunRecord:
        """Put a run on record."""
        record = _record(owner or self.dispatcher.owner, thread_id or new_thread_id())
        options: dict[str, Any] = {"new_thread": thread_id is None, "enqueue": True, "timeout": 60}
        return self.journal.runs.create(record, **options).result(10)

    def start(self, **changes: Any) -> tuple[RunRecord, Ticket]:
        """Start a run as a request does."""
        record, ticket = self.record(**changes), Ticket()
        self.dispatcher.expect(record, ticket)
        self.dispatcher.submit(record)
        return record, ticket

    def find(self, record: RunRecord) -> RunRecord:
        found = self.journal.runs.find(record.id)
        assert found is not None
        return found

    def close(self) -> None:
        self.dispatcher.close()
        self.loop.close()
        self.journal.close()


def _record(owner: str, thread_id: str) -> RunRecord:
    return a_run(owner=owner, thread_id=thread_id)


@pytest.fixture
def boot(postgres_url: str) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def make(*script: Any, home: str | None = None) -> Process:
        processes.append(Process(postgres_url, home, ScriptedEngine(*script)))
        return processes[-1]

    yield make
    for process in processes:
        process.close()


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def waiting(reached: threading.Event) -> Callable[[], Any]:
    """Return a step of a script at which an engine waits until its run is stopped."""

    async def wait() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    return wait


def test_a_run_that_nobody_drives_is_found(boot: Callable[..., Process]) -> None:
    """Its process died between putting it on record and driving it, without ever having been on record itself."""
    process = boot(["text"])
    record = process.record(owner="1-gone-00000000")

    eventually(lambda: process.find(record).state == "ended")
    assert process.gateway.types() == ["threadInfo", "delta", "end"]
    assert process.find(record).epoch == 2


def test_a_run_goes_to_one_process_only(boot: Callable[..., Process]) -> None:
    """Many may be offered it, one has it."""
    processes = [boot(["text"]) for _ in range(3)]
    records = [processes[0].record(owner="1-gone-00000000") for _ in range(3)]

    eventually(lambda: all(processes[0].find(record).state == "ended" for record in records))
    assert {processes[0].find(record).epoch for record in records} == {2}
    assert [kind for process in processes for kind in process.gateway.types()].count("end") == 3


def test_runs_stay_at_home(boot: Callable[..., Process]) -> None:
    """Messages that go to one host app cannot be sent by a process that has another, or none."""
    over_http = boot(["text"])
    boot(["text"], home="shop")
    first = boot(["text"], home="portal")
    record = first.record(owner=first.dispatcher.owner.replace("-", "-gone", 1))
    first.close()
    threading.Event().wait(2)
    assert over_http.find(record).owner == record.owner
    second = boot(["text"], home="portal")

    eventually(lambda: second.find(record).state == "ended")
    assert second.find(record).owner == second.dispatcher.owner


def test_a_closed_process_hands_over_at_once(boot: Callable[..., Process]) -> None:
    """Nobody waits for a threshold."""
    reached = threading.Event()
    first = boot(["so far", waiting(reached)])
    record, ticket = first.start()
    ticket.release()
    assert reached.wait(10)
    second = boot(["so far", waiting(reached)])

    first.dispatcher.close()

    eventually(lambda: second.find(record).owner == second.dispatcher.owner)
    eventually(lambda: second.dispatcher.active() == 1)


@pytest.mark.parametrize("deaf", [False, True], ids=["by signal", "by polling"])
def test_a_stop_reaches_the_driver(boot: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    """From another process, and also when signals cannot be listened for."""
    if deaf:

        def refuse(self: Listener, seconds: float) -> set[str]:
            raise JournalError("no signals")

        monkeypatch.setattr(Listener, "wait", refuse)
    reached = threading.Event()
    driving, other = boot(["so far", waiting(reached)]), boot()
    record, ticket = driving.start()
    ticket.release()
    assert reached.wait(10)

    other.journal.runs.decide(record.id, CANCELLED).result(10)

    eventually(lambda: driving.find(record).state == "ended")
    assert driving.gateway.types()[-1] == "end"
    assert driving.find(record).epoch == 1


def test_a_queued_run_stopped_elsewhere(boot: Callable[..., Process]) -> None:
    """Whoever stops it ends it; where it was accepted its place is free again."""
    reached = threading.Event()
    accepting, stopping = boot(["so far", waiting(reached)]), boot()
    first, ticket = accepting.start()
    ticket.release()
    queued, waiter = accepting.start(thread_id=first.thread_id)
    ending = stopping.journal.runs.decide(queued.id, CANCELLED).result(10)

    stopping.dispatcher.stop(queued, ending, "stop")

    eventually(lambda: stopping.find(queued).state == "ended")
    assert stopping.gateway.types() == ["threadInfo", "end"]
    eventually(lambda: accepting.dispatcher.active() == 1)
    assert waiter.ended.exception(10) is not None


def test_a_promoted_run_is_driven_by_who_accepted_it(boot: Callable[..., Process]) -> None:
    """Another process freed the thread; who accepted the run, and answers its caller, hears of it."""
    accepting, freeing = boot(["text"]), boot()
    first = freeing.record()
    queued, ticket = accepting.start(thread_id=first.thread_id)

    freeing.journal.runs.finish(first.id, 1, usage=Usage(), cut=None, timeout=60).result(10)

    ticket.wait_accepted(10)
    ticket.release()
    eventually(lambda: accepting.find(queued).state == "ended")
    assert accepting.gateway.types() == ["threadInfo", "delta", "end"]


def test_operators_see_who_drives_what(
    boot: Callable[..., Process], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bf-plugin runs` reads heartbeats; a stop from there reaches the driver."""
    monkeypatch.setenv("BF_DATABASE_URL", postgres_url)
    monkeypatch.setenv("BF_SECRET_KEY", KEY)
    reached = threading.Event()
    process = boot(["so far", waiting(reached)])
    record, ticket = process.start()
    ticket.release()
    assert reached.wait(10)

    listed = CliRunner().invoke(main, ["runs", "list"])
    stopped = CliRunner().invoke(main, ["runs", "stop", record.id])

    assert f"pid {os.getpid()} alive" in listed.output
    assert stopped.output == "cancelled\n"
    eventually(lambda: process.find(record).state == "ended")


def test_a_worker_needs_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    """With SQLite there is nothing for it to do, and it says so."""
    monkeypatch.setenv("BF_DATABASE_URL", "sqlite:////tmp/nothing.db")

    result = CliRunner().invoke(main, ["worker"])

    assert result.exit_code == 1
    assert "a worker needs postgresql://" in result.output


def test_jobs_are_offered_once_and_lost_ones_removed(postgres_url: str) -> None:
    """A job whose worker is gone does not stay for ever; the run it was about is offered again by the dispatcher."""
    taken: list[tuple[str, int]] = []

    async def take(run_id: str, epoch: int) -> None:
        taken.append((run_id, epoch))

    jobs = Jobs(postgres_url, "runs", take)
    install(postgres_url)
    install(postgres_url)

    async def offer() -> None:
        async with jobs._app.open_async():
            for _ in range(3):
                await jobs.defer("run", 1)
            await jobs._app.job_manager.fetch_job(
                queues=["runs"], worker_id=await jobs._app.job_manager.register_worker()
            )
            await jobs.defer("run", 1)
            assert await count() == {"doing": 1, "todo": 1}
            await jobs._app.job_manager.connector.execute_query_async(
                "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'"
            )
            await jobs.clear(30)
            assert await count() == {"todo": 1}
            await jobs._app.run_worker_async(queues=["runs"], wait=False, install_signal_handlers=False)

    async def count() -> dict[str, int]:
        rows = await jobs._app.job_manager.connector.execute_query_all_async(
            "SELECT status, count(*) AS number FROM procrastinate_jobs GROUP BY status"
        )
        return {row["status"]: row["number"] for row in rows}

    asyncio.run(offer())

    assert taken == [("run", 1)]


def test_a_user_who_may_not_make_schemas_is_told(postgres_url: str) -> None:
    """The message names the right that is missing."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS bf_poor")
        connection.execute("CREATE ROLE bf_poor LOGIN")

    with pytest.raises(JournalError, match="grant CREATE on the database"):
        install(postgres_url.replace("//postgres:", "//bf_poor:"))
