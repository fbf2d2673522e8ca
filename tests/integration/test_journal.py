"""The journal: one run a thread, one outcome a run, nothing in the clear, and errors a person understands."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select

from bf_plugin.errors import ConfigurationError, Fenced, JournalError
from bf_plugin.items import text_message
from bf_plugin.journal import (
    CANCELLED,
    Cut,
    Ending,
    Journal,
    RunEnded,
    RunRecord,
    Secrets,
    ThreadBusy,
    UnknownThread,
    open_journal,
)
from bf_plugin.journal.records import Sealed
from bf_plugin.journal.seals import Seal, SealGroup
from bf_plugin.journal.store import default_url
from bf_plugin.journal.tables import metadata, threads
from bf_plugin.journal.vault import Vault
from bf_plugin.testing.records import a_run, seal
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
OTHER_KEY = "r1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, path: Path) -> str:
    return f"sqlite:///{path}" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def journal(url: str) -> Iterator[Journal]:
    opened = open_journal(url, [KEY])
    yield opened
    opened.close()


def pragma(path: Path, name: str) -> Any:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


def stored(journal: Journal, path: Path) -> bytes:
    """Return all bytes that a database has of the journal."""
    if path.exists():
        return b"".join(file.read_bytes() for file in path.parent.iterdir() if file.is_file())
    queries = [select(table) for table in metadata.sorted_tables]
    rows = journal.runs.read(lambda connection: [row for query in queries for row in connection.execute(query)])
    return b"".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)


def record(**changes: Any) -> RunRecord:
    spec = {
        "instructions": "SECRETWORD instructions",
        "messages": [text_message("user", "SECRETWORD message")],
        "channels": ["SECRETWORD channel"],
    }
    secrets = Secrets(app_key="BFAPI_SECRETWORD", provider_key="sk-SECRETWORD")
    return a_run(spec=spec, **{"secrets": secrets, **changes})


def create(journal: Journal, run: RunRecord, *, new: bool = True, enqueue: bool = False) -> RunRecord:
    return journal.runs.create(run, new_thread=new, enqueue=enqueue, timeout=600).result(5)


def finish(journal: Journal, run: RunRecord, cut: Cut | None = None) -> RunRecord | None:
    return journal.runs.finish(run.id, run.epoch, usage=Usage(), cut=cut, timeout=600).result(5)


def message(number: int = 1, *, deliver: bool = True) -> Sealed:
    body = b'{"actions":[],"x":"SECRETWORD"}'
    return Sealed(number=number, first_seq=number, last_seq=number, end_offset=0, body=body, deliver=deliver)


def test_a_run_comes_back_as_it_was(journal: Journal) -> None:
    """What is put on record is what is read."""
    run = create(journal, record())

    assert journal.runs.get(run.id, run.thread_id) == run
    assert run.spec.messages == [text_message("user", "SECRETWORD message")]
    assert run.secrets == Secrets(app_key="BFAPI_SECRETWORD", provider_key="sk-SECRETWORD")


def test_nothing_is_in_the_clear(journal: Journal, path: Path) -> None:
    """No word of a person, a model or a tool, and no key, is readable in the files."""
    run = create(journal, record())
    journal.steps.open(
        run.id, 1, 1, thread_id=run.thread_id, engine_key="k", fresh=[text_message("user", "SECRETWORD")]
    ).result(5)
    journal.steps.name(run.id, 1, 1, {"response_id": "SECRETWORD"}).result(5)
    call: Any = {"type": "function_call", "call_id": "c", "name": "tool", "arguments": '"SECRETWORD"'}
    journal.steps.close(
        run.id, 1, 1,
        thread_id=run.thread_id, engine_key="k", state={"x": "SECRETWORD"}, produced=[], asked=[call],
        content=[], finish_reason="stop", usage=Usage(),
    ).result(5)  # fmt: skip
    journal.steps.start_call(run.id, 1, (1, 0)).result(5)
    journal.steps.finish_call(run.id, 1, (1, 0), "SECRETWORD").result(5)
    seal(journal, run, message())
    journal.runs.decide(run.id, Ending(status="failed", finish_reason="error", error={"message": "SECRETWORD"})).result(
        5
    )

    found = stored(journal, path)

    assert run.id.encode() in found
    assert b"SECRETWORD" not in found


def test_keys_are_erased_at_the_end(journal: Journal) -> None:
    """An ended run has no keys any more."""
    run = create(journal, record())
    finish(journal, run)

    ended = journal.runs.get(run.id, run.thread_id)

    assert ended is not None
    assert ended.secrets is None


def test_one_run_per_thread(journal: Journal) -> None:
    """A second run is refused while one is under way."""
    run = create(journal, record())

    with pytest.raises(ThreadBusy) as caught:
        create(journal, record(thread_id=run.thread_id), new=False)

    assert caught.value.run_id == run.id


def test_a_run_that_is_ending_is_waited_for(journal: Journal) -> None:
    """Behind a decided run a new one is queued, and comes up when that has ended; a third is refused."""
    run = create(journal, record())
    journal.runs.decide(run.id, CANCELLED).result(5)
    second = create(journal, record(thread_id=run.thread_id), new=False)

    with pytest.raises(ThreadBusy):
        create(journal, record(thread_id=run.thread_id), new=False)
    assert second.state == "queued"
    promoted = finish(journal, run)
    assert promoted is not None
    assert (promoted.id, promoted.state) == (second.id, "starting")


def test_a_stopped_queued_run_never_holds_its_thread(journal: Journal) -> None:
    """A run stopped in the queue stays there until its end is sent, and is not promoted."""
    run = create(journal, record())
    second = create(journal, record(thread_id=run.thread_id), new=False, enqueue=True)
    journal.runs.decide(second.id, CANCELLED).result(5)

    assert finish(journal, run) is None
    stopped = journal.runs.get(second.id, run.thread_id)
    assert stopped is not None
    assert stopped.state == "queued"


def test_the_first_outcome_counts(journal: Journal) -> None:
    """Whoever decides second is told what was decided first."""
    run = create(journal, record())

    first = journal.runs.decide(run.id, CANCELLED).result(5)
    second = journal.runs.decide(run.id, Ending(status="completed", finish_reason="stop")).result(5)

    assert first.won
    assert (second.won, second.status, second.finish_reason) == (False, "cancelled", "cancelled")


def test_threads_of_another_app_are_unknown(journal: Journal) -> None:
    """An app sees no thread but its own."""
    run = create(journal, record())

    assert not journal.runs.has_thread(run.thread_id, "other")
    with pytest.raises(UnknownThread):
        create(journal, record(thread_id=run.thread_id, app="other"), new=False)


def test_the_fence(journal: Journal) -> None:
    """After a takeover no write of the old driver happens."""
    run = create(journal, record())
    adopted = journal.runs.adopt(run.id, 1, "other").result(5)
    assert adopted is not None
    assert adopted.epoch == 2

    writes: list[Future[Any]] = [
        journal.log.of(run.id, 1).settle(1, "accepted"),
        journal.steps.open(run.id, 1, 1, thread_id=run.thread_id, engine_key="k", fresh=[]),
        journal.steps.name(run.id, 1, 1, {}),
        journal.steps.start_call(run.id, 1, (1, 0)),
        journal.steps.finish_call(run.id, 1, (1, 0), "x"),
        journal.runs.finish(run.id, 1, usage=Usage(), cut=None, timeout=1),
        journal.runs.discard(run.id, 1, timeout=1),
    ]

    for write in writes:
        with pytest.raises(Fenced):
            write.result(5)
    for last in (False, True):
        with pytest.raises(Fenced):
            seal(journal, run, message(), closing=last)
    assert journal.log.all(run.id) == []
    assert journal.runs.adopt(run.id, 1, "third").result(5) is None


def test_nothing_but_the_end_follows_an_outcome(journal: Journal) -> None:
    """A decided run takes no more text, only what belongs to its closing."""
    run = create(journal, record())
    journal.runs.decide(run.id, CANCELLED).result(5)

    with pytest.raises(RunEnded):
        seal(journal, run, message())
    seal(journal, run, message(), closing=True)
    assert [row.number for row in journal.log.all(run.id)] == [1]


def test_what_becomes_of_a_message_is_on_record(journal: Journal) -> None:
    """Sent and accepted, given up, or never to be sent: a caller who polls gets none."""
    run = create(journal, record())
    log = journal.log.of(run.id, 1)

    def deliver() -> list[bool]:
        return [row.deliver for row in journal.log.all(run.id)]

    for number, to_be_sent in enumerate([True, True, False], 1):
        seal(journal, run, message(number, deliver=to_be_sent))
    assert deliver() == [True, True, False]
    log.settle(1, "accepted").result(5)
    log.settle(2, "unsent").result(5)
    assert deliver() == [False, False, False]


def test_messages_are_sealed_together_where_nothing_stands_against_it(journal: Journal) -> None:
    """In one statement, however many runs they are of; one that is refused does not keep the others from it."""
    good = [create(journal, record()) for _ in range(3)]
    taken, decided, shaken = (create(journal, record()) for _ in range(3))
    journal.runs.adopt(taken.id, 1, "other").result(5)
    journal.runs.decide(decided.id, CANCELLED).result(5)
    journal.runs.adopt(shaken.id, 1, "me").result(5)

    def together(number: int, *runs: RunRecord, epoch: int = 1, closing: bool = False) -> list[type | None]:
        group = SealGroup([a_seal(run, number, epoch=epoch, closing=closing) for run in runs])
        refusals = journal.runs.write(group).result(5)
        return [None if refusal is None else type(refusal) for refusal in refusals]

    fine = [None] * 3
    assert together(1, *good) == fine
    assert together(2, *good) == fine
    assert together(3, *good, taken) == [*fine, Fenced]
    assert together(4, *good, decided) == [*fine, RunEnded]
    assert together(5, *good, epoch=2) == [Fenced] * 3
    assert together(5, *good, taken, closing=True) == [*fine, Fenced]
    assert together(6, *good, good[0]) == [*fine, JournalError]
    assert together(1, shaken, epoch=2) == [None]
    assert together(7, *good, decided, closing=True) == [*fine, None]
    assert [len(journal.log.all(run.id)) for run in (*good, taken, decided, shaken)] == [7] * 3 + [0, 1, 1]
    assert attempts(journal, shaken) == 0, "its takeovers must be forgotten with its progress"


def attempts(journal: Journal, run: RunRecord) -> int:
    found = journal.runs.find(run.id)
    assert found is not None
    return found.attempts


def test_a_group_of_messages_does_not_fail_for_one(journal: Journal) -> None:
    """What is sealed at the same moment as a message that must not be is sealed all the same."""
    good = [create(journal, record()) for _ in range(70)]
    taken, decided, twice = (create(journal, record()) for _ in range(3))
    journal.runs.adopt(taken.id, 1, "other").result(5)
    journal.runs.decide(decided.id, CANCELLED).result(5)
    seal(journal, twice, message())

    async def all_at_once() -> list[BaseException | None]:
        sealing = [journal.log.of(run.id, 1).seal(message(), closing=False) for run in (*good, taken, decided, twice)]
        return await asyncio.gather(*sealing, return_exceptions=True)

    outcomes = asyncio.run(all_at_once())

    assert outcomes[:70] == [None] * 70
    assert [type(outcome) for outcome in outcomes[70:]] == [Fenced, RunEnded, JournalError]
    assert all(len(journal.log.all(run.id)) == 1 for run in good)


def a_seal(run: RunRecord, number: int, *, epoch: int, closing: bool) -> Seal:
    row = {"run_id": run.id, "number": number, "first_seq": 1, "last_seq": 1, "end_offset": 0, "state": "sealed"}
    body = Vault([KEY]).box(run.id).seal((b"{}", ()), number)
    return Seal(run.id, epoch, closing, {**row, "data_sealed": body})


def test_a_message_number_is_used_once(journal: Journal) -> None:
    """A seq never names two contents, whatever happens above."""
    run = create(journal, record())
    seal(journal, run, message())

    with pytest.raises(JournalError):
        seal(journal, run, message())


def test_the_first_answer_of_a_page_counts(journal: Journal) -> None:
    """Answer, timeout and stop compete; who comes first is on record."""
    run = create(journal, record())
    journal.steps.open(run.id, 1, 1, thread_id=run.thread_id, engine_key="k", fresh=[]).result(5)
    calls: list[Any] = [
        {"type": "function_call", "call_id": "same", "name": f"ui_{n}", "arguments": "{}"} for n in range(3)
    ]
    journal.steps.close(
        run.id,
        1,
        1,
        thread_id=run.thread_id,
        engine_key="k",
        state=None,
        produced=[],
        asked=calls,
        content=[],
        finish_reason="stop",
        usage=Usage(),
    ).result(5)
    now = time.time()
    for position, deadline in enumerate((now + 60, now - 1, now + 60)):
        call_id = f"tool_{position}"
        journal.steps.start_call(run.id, 1, (1, position), tool_call_id=call_id, deadline=deadline).result(5)

    assert journal.steps.answer("tool_0", "first").result(5) == (run.id, True)
    assert journal.steps.answer("tool_0", "second").result(5) == (run.id, False)
    assert journal.steps.finish_call(run.id, 1, (1, 0), "time-out").result(5) == "first"
    assert journal.steps.answer("tool_1", "late").result(5) == (run.id, False)
    journal.runs.decide(run.id, CANCELLED).result(5)
    assert journal.steps.answer("tool_2", "after the stop").result(5) == (run.id, False)
    assert journal.steps.answer("tool_9", "whose?").result(5) is None


def test_a_cut_run_leaves_its_items(journal: Journal) -> None:
    """What a run leaves is there for the next; another engine's state starts from the whole history."""
    run = create(journal, record())
    cut = Cut(items=[text_message("assistant", "so far")], engine_key="mine", state={"conversation": "conv_1"})
    finish(journal, run, cut)
    second = create(journal, record(thread_id=run.thread_id), new=False)

    mine = journal.steps.open(
        second.id, 1, 1, thread_id=run.thread_id, engine_key="mine", fresh=[text_message("user", "more")]
    ).result(5)

    assert mine.state == {"conversation": "conv_1"}
    assert mine.new == [text_message("assistant", "so far"), text_message("user", "more")]


def test_another_engine_starts_from_history(journal: Journal) -> None:
    """A state is handed only to the engine, URL and key that made it."""
    run = create(journal, record())
    ids: dict[str, Any] = {"thread_id": run.thread_id}
    journal.steps.open(run.id, 1, 1, **ids, engine_key="a", fresh=[text_message("user", "1")]).result(5)
    journal.steps.close(
        run.id, 1, 1, **ids, engine_key="a", state={"s": 1}, produced=[text_message("assistant", "2")], asked=[],
        content=[], finish_reason="stop",
        usage=Usage(),
    ).result(5)  # fmt: skip

    same = journal.steps.open(run.id, 1, 2, **ids, engine_key="a", fresh=[text_message("user", "3")]).result(5)
    other = journal.steps.open(run.id, 1, 3, **ids, engine_key="b", fresh=[]).result(5)

    assert (same.state, len(same.new)) == ({"s": 1}, 1)
    assert (other.state, len(other.new)) == (None, 3)
    assert journal.runs.thread_items(run.thread_id, same.synced) == [
        text_message("user", "1"),
        text_message("assistant", "2"),
    ]


def test_a_discarded_run_takes_its_new_thread_along(journal: Journal) -> None:
    """A refused start leaves nothing; a thread that was there before stays."""
    first = create(journal, record())
    journal.runs.discard(first.id, 1, timeout=1).result(5)
    kept = create(journal, record())
    finish(journal, kept)
    second = create(journal, record(thread_id=kept.thread_id), new=False)
    journal.runs.discard(second.id, 1, timeout=1).result(5)

    assert not journal.runs.has_thread(first.thread_id, "app")
    assert journal.runs.has_thread(kept.thread_id, "app")
    assert journal.runs.get(second.id, second.thread_id) is None


def test_a_failing_job_spares_its_neighbours(journal: Journal) -> None:
    """Jobs are committed together, but one that fails is undone alone."""
    run = record()

    def broken(connection: Connection) -> None:
        connection.execute(insert(threads).values(id="half", app="x", created_by="x", used_at=0.0))
        raise KeyError("a bug")

    futures: list[Future[Any]] = [
        journal.runs.create(run, new_thread=True, enqueue=False, timeout=1),
        journal.runs.write(broken),
        journal.runs.create(record(), new_thread=True, enqueue=False, timeout=1),
    ]

    assert futures[0].result(5).id == run.id
    with pytest.raises(KeyError):
        futures[1].result(5)
    assert futures[2].result(5).state == "starting"
    assert not journal.runs.has_thread("half", "x")


def test_what_was_written_is_there_after_a_restart(url: str) -> None:
    """Threads and ended runs are found by the next process."""
    first = open_journal(url, [KEY])
    run = create(first, record())
    finish(first, run)
    first.close()

    second = open_journal(url, [OTHER_KEY, KEY])
    found = second.runs.get(run.id, run.thread_id)
    second.close()

    assert found is not None
    assert found.state == "ended"
    assert found.spec == run.spec


def test_another_secret_key_is_an_error_with_advice(url: str) -> None:
    """A lost key is said, not guessed around."""
    first = open_journal(url, [KEY])
    run = create(first, record())
    first.close()
    second = open_journal(url, [OTHER_KEY])

    with pytest.raises(JournalError, match="BF_SECRET_KEY"):
        second.runs.get(run.id, run.thread_id)
    second.close()


def test_the_key_beside_the_database_is_private(path: Path) -> None:
    """Without a secret key one is made, once, for this user only."""
    open_journal(f"sqlite:///{path}").close()
    key = path.with_name("journal.db.key")
    content = key.read_text()
    open_journal(f"sqlite:///{path}").close()

    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text() == content
    assert [file.name for file in path.parent.iterdir() if ".key." in file.name] == []


def test_processes_may_make_the_journal_together(tmp_path: Path) -> None:
    """All of them get it, with one key. Forty times: one try in ten meets at the worst moment."""
    together = threading.Barrier(2)

    def boot(path: Path) -> Journal:
        together.wait()
        return open_journal(f"sqlite:///{path}")

    with ThreadPoolExecutor(2) as processes:
        for number in range(40):
            path = tmp_path / f"{number}.db"
            first, second = processes.map(boot, [path, path])
            run = create(first, record())
            assert second.runs.get(run.id, run.thread_id) is not None
            first.close()
            second.close()


def test_a_key_that_cannot_be_made_is_said(path: Path) -> None:
    """Its file, and what may be done about it."""
    path.with_name("journal.db.key").mkdir()

    with pytest.raises(JournalError, match=r"journal\.db\.key.*set BF_SECRET_KEY"):
        open_journal(f"sqlite:///{path}")


def test_a_locked_database_is_an_error_with_advice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that never ends is named, and later writes work."""
    monkeypatch.setattr("bf_plugin.journal.sqlite._BUSY", 0.05)
    journal = open_journal(f"sqlite:///{path}", [KEY])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(JournalError, match="another program"):
        create(journal, record())
    other.execute("ROLLBACK")
    assert create(journal, record()).state == "starting"
    other.close()
    journal.close()


def test_a_full_disk_is_an_error_with_advice(path: Path) -> None:
    """Where no page more can be written the error says so; with room again, writes work, and nothing is half there."""
    journal = open_journal(f"sqlite:///{path}", [KEY])
    pages = pragma(path, "page_count")

    def limit(count: int) -> None:
        journal.runs.write(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={count}")).result(5)

    def fill() -> None:
        for _ in range(100):
            create(journal, record())

    limit(pages)
    with pytest.raises(JournalError, match="free space"):
        fill()
    limit(1_000_000)
    assert create(journal, record()).state == "starting"
    assert pragma(path, "integrity_check") == "ok"
    journal.close()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "not a database URL"),
        ("sqlite://", "an SQLite file is needed"),
        ("sqlite:///:memory:", "an SQLite file is needed"),
        ("mysql://x/y", "only sqlite"),
        ("sqlite:////proc/nowhere/journal.db", "cannot create"),
    ],
)
def test_a_bad_url_is_said(url: str, problem: str) -> None:
    """A URL that cannot work is refused with the setting's name."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        open_journal(url, [KEY])
    assert "BF_DATABASE_URL" in str(caught.value)


def test_a_bad_secret_key_is_said(url: str) -> None:
    """A key that is no Fernet key is refused without being quoted."""
    with pytest.raises(ConfigurationError, match="BF_SECRET_KEY") as caught:
        open_journal(url, ["no-fernet-key"])
    assert "no-fernet-key" not in str(caught.value)


def test_the_default_database_has_its_own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name gives a file of that name; without one, folder and host app tell deployments apart."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def host() -> None: ...

    def other() -> None: ...

    assert default_url("portal", host) == f"sqlite:///{tmp_path}/bf_plugin/portal.db"
    assert default_url(None, host) == default_url(None, host)
    assert default_url(None, host) != default_url(None, other)


def test_a_closed_journal_says_so(url: str) -> None:
    """What is asked after the end fails, it does not hang."""
    journal = open_journal(url, [KEY])
    journal.close()

    with pytest.raises(JournalError, match="shutting down"):
        create(journal, record())
