"""Purging: what is old goes, in small batches, and nothing else does."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.items import text_message
from bf_plugin.journal import Cut, Ending, Journal, RunRecord, open_journal
from bf_plugin.journal.keys import KEY_LIFE, Claim
from bf_plugin.journal.purge import MESSAGES_A_BATCH
from bf_plugin.journal.records import Sealed
from bf_plugin.runtime.ids import new_thread_id
from bf_plugin.testing.records import a_run, seal
from bf_plugin.usecases.retain import INTERVAL, Retention
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
DAY = 86400.0
TABLES = ("bf_runs", "bf_messages", "bf_threads", "bf_items", "bf_idempotency")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = open_journal(f"sqlite:///{path}", [KEY])
    yield opened
    opened.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The journal's time, to be set."""
    now = [time.time()]
    for module in ("runs", "keys", "purge"):
        monkeypatch.setattr(f"bf_plugin.journal.{module}.time.time", lambda: now[0])
    return now


def record(**changes: Any) -> RunRecord:
    return a_run(**{"created_at": 0.0, **changes})


def begin(journal: Journal, *, thread_id: str | None = None, claim: Claim | None = None) -> RunRecord:
    run = record(thread_id=thread_id or new_thread_id())
    creating = journal.runs.create(run, new_thread=thread_id is None, enqueue=False, timeout=600, claim=claim)
    return creating.result(5)


def end(journal: Journal, run: RunRecord, *, messages: int = 1) -> None:
    said = [
        Sealed(number=number, first_seq=number, last_seq=number, end_offset=0, body=b'{"actions":[]}')
        for number in range(1, messages + 1)
    ]
    seal(journal, run, *said, closing=True)
    journal.runs.decide(run.id, Ending(status="completed", finish_reason="stop")).result(5)
    cut = Cut(items=[text_message("user", "Hi")], engine_key="k", state={"response_id": "r"})
    journal.runs.finish(run.id, 1, usage=Usage(), cut=cut, timeout=600).result(5)


def purge(journal: Journal, days: float = 30) -> int:
    pauses = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    removed = asyncio.run(Retention(journal, days, sleep=sleep).purge())
    assert bool(removed) == bool(pauses)
    return removed


def rows(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as connection:
        counts = {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    connection.close()
    return counts


def test_what_is_old_goes(journal: Journal, path: Path, clock: list[float]) -> None:
    """An ended run goes with its messages and its key, then its thread with items and state."""
    clock[0] -= 31 * DAY
    end(journal, begin(journal, claim=Claim("a", "b")), messages=3)
    clock[0] += 31 * DAY
    assert set(rows(path).values()) != {0}

    assert purge(journal) > 0

    assert rows(path) == dict.fromkeys(TABLES, 0)
    assert purge(journal) == 0


def test_what_is_young_stays(journal: Journal, path: Path, clock: list[float]) -> None:
    """Nothing of the last days goes."""
    clock[0] -= 29 * DAY
    end(journal, begin(journal))
    clock[0] += 29 * DAY
    before = rows(path)

    assert purge(journal) == 0
    assert rows(path) == before
    assert purge(journal, days=28) > 0


def test_a_run_under_way_stays(journal: Journal, path: Path, clock: list[float]) -> None:
    """A run that has not ended stays however old it is, and so does its thread."""
    clock[0] -= 31 * DAY
    run = begin(journal)
    clock[0] += 31 * DAY

    assert purge(journal) == 0
    assert journal.runs.get(run.id, run.thread_id) is not None


def test_a_thread_in_use_stays(journal: Journal, path: Path, clock: list[float]) -> None:
    """A thread that was used lately loses its old runs, and keeps what the model is told."""
    clock[0] -= 31 * DAY
    old = begin(journal)
    end(journal, old)
    clock[0] += 31 * DAY
    young = begin(journal, thread_id=old.thread_id)
    end(journal, young)

    purge(journal)

    assert journal.runs.get(old.id, old.thread_id) is None
    assert journal.runs.get(young.id, young.thread_id) is not None
    assert len(journal.runs.thread_items(old.thread_id)) == 2


def test_batches_are_small(journal: Journal, path: Path, clock: list[float]) -> None:
    """A run of many messages does not go at once: a batch has a bound on its rows."""
    clock[0] -= 31 * DAY
    run = begin(journal)
    end(journal, run, messages=MESSAGES_A_BATCH + 5)
    clock[0] += 31 * DAY
    before = clock[0] - 30 * DAY

    batches = [journal.purge(before).result(10) for _ in range(4)]

    assert batches == [MESSAGES_A_BATCH, 6, 1, 0]


def test_keys_go_after_a_day(journal: Journal, path: Path, clock: list[float]) -> None:
    """Idempotency keys go when they are of no use, long before their run."""
    end(journal, begin(journal, claim=Claim("a", "b")))
    clock[0] += KEY_LIFE + 1

    purge(journal)

    assert rows(path)["bf_idempotency"] == 0
    assert rows(path)["bf_runs"] == 1


def test_every_hour(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """The task purges soon after the start and then every hour, with jitter; a failure does not end it."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    journal.close()  # so that purging fails

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Retention(journal, 30, sleep=sleep).run())

    assert 0 < pauses[0] < 600
    assert all(abs(pause - INTERVAL) <= INTERVAL / 10 for pause in pauses[1:])
    assert caplog.text.count("cannot purge the journal") == 2
