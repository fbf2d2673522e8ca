"""Following a run: each event once, in order, soon after its commit, and an end to every stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from bf_plugin.errors import RequestError
from bf_plugin.gateway import events
from bf_plugin.items import text_message
from bf_plugin.journal import Ending, Journal, RunRecord, open_journal
from bf_plugin.journal.records import Sealed
from bf_plugin.testing import records
from bf_plugin.testing.records import a_run
from bf_plugin.usecases.admission import Admission
from bf_plugin.usecases.inspection import Inspection
from bf_plugin.values import Usage

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = open_journal(f"sqlite:///{path}", [KEY])
    yield opened
    opened.close()


@pytest.fixture
def inspection(journal: Journal) -> Inspection:
    return Inspection(journal=journal, admission=Admission(max_runs=1, max_waiters=2, active=lambda app: 0))


@pytest.fixture
def run(journal: Journal) -> RunRecord:
    record = a_run(spec={"messages": [text_message("user", "Hi")]})
    return journal.runs.create(record, new_thread=True, enqueue=False, timeout=600).result(5)


def seal(journal: Journal, run: RunRecord, number: int, *said: dict[str, Any], first: int) -> None:
    """Commit a message that holds events, seq from `first`; without any, a bare action."""
    numbered = [{**event, "seq": seq} for seq, event in enumerate(said, first)]
    actions = [events.named_action(event, "handle", "options") for event in numbered]
    sealed = Sealed(
        number=number,
        first_seq=first,
        last_seq=first + len(said) - 1,
        end_offset=0,
        body=events.encode_message(actions or [{"action": "llmToolCall", "options": {}}]),
    )
    records.seal(journal, run, sealed, closing=True)


def end(journal: Journal, run: RunRecord) -> None:
    journal.runs.decide(run.id, Ending(status="completed", finish_reason="stop")).result(5)
    journal.runs.finish(run.id, 1, usage=Usage(), cut=None, timeout=600).result(5)


def delta(text: str) -> dict[str, Any]:
    return events.delta(text, 0)


END = events.end("stop", Usage())


def follow(inspection: Inspection, run: RunRecord, after: int = 0) -> Iterator[Any]:
    following = inspection.follow(run.id, run.thread_id, after)
    assert following is not None
    for batch in following:
        yield from batch


def test_events_after(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """`after` is exclusive, also within a message; bare actions are not events."""
    seal(journal, run, 1, delta("a"), delta("b"), first=1)
    seal(journal, run, 2, first=3)
    seal(journal, run, 3, delta("c"), first=3)

    def seqs(after: int) -> list[int]:
        return [event["seq"] for event in inspection.events(run.id, run.thread_id, after)]

    assert [seqs(after) for after in range(5)] == [[1, 2, 3], [2, 3], [3], [], []]


def test_new_events_come_soon(journal: Journal, path: Path, inspection: Inspection, run: RunRecord) -> None:
    """What another process commits is seen by a stream that waits."""
    other = open_journal(f"sqlite:///{path}", [KEY])
    seal(journal, run, 1, delta("a"), first=1)
    stream = follow(inspection, run)
    assert next(stream)["content"] == "a"
    timer = Timer(0.15, lambda: seal(other, run, 2, delta("b"), first=2))
    timer.start()
    assert next(stream)["content"] == "b"
    timer.join()
    other.close()


def test_a_stream_ends_with_end(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """Nothing is waited for behind `end`, though the run's row is not ended yet."""
    seal(journal, run, 1, delta("a"), first=1)
    seal(journal, run, 2, END, first=2)

    assert [event["seq"] for event in follow(inspection, run)] == [1, 2]
    assert [event["seq"] for event in follow(inspection, run, after=1)] == [2]


def test_a_stream_beyond_the_end(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """A reader that claims to know more than there is learns the end when the run has ended."""
    seal(journal, run, 1, delta("a"), first=1)
    stream = inspection.follow(run.id, run.thread_id, after=9)
    assert stream is not None
    seal(journal, run, 2, END, first=2)
    end(journal, run)

    assert [event for batch in stream for event in batch] == []
    assert inspection.follow(run.id, run.thread_id, after=9) is None
    assert inspection.follow(run.id, run.thread_id, after=1) is not None


def test_a_run_that_vanishes(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """A stream of a run that is taken back ends."""
    stream = follow(inspection, run)
    timer = Timer(0.1, lambda: journal.runs.discard(run.id, 1, timeout=600))
    timer.start()

    assert list(stream) == []
    timer.join()


def test_nobody_reads_any_more(inspection: Inspection, run: RunRecord) -> None:
    """A stream ends when its reader has gone, or the process closes."""
    following = inspection.follow(run.id, run.thread_id, 0, lambda: True)
    assert following is not None
    assert list(following) == []

    open_one = inspection.follow(run.id, run.thread_id)
    assert open_one is not None
    inspection.close()
    assert list(open_one) == []


def test_places(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """Each stream holds a place until it ends or is closed, even if it was never read."""
    first, second = (inspection.follow(run.id, run.thread_id) for _ in range(2))
    assert first is not None
    assert second is not None
    with pytest.raises(RequestError) as refused:
        inspection.follow(run.id, run.thread_id)
    assert (refused.value.code, refused.value.retry_after) == (503, 1)

    first.close()
    first.close()
    seal(journal, run, 1, END, first=1)
    assert len(list(second)) == 1

    again = [inspection.follow(run.id, run.thread_id) for _ in range(2)]
    assert None not in again


def test_usage_so_far(journal: Journal, inspection: Inspection, run: RunRecord) -> None:
    """A run under way reports the usage of its finished steps."""
    ids: dict[str, Any] = {"thread_id": run.thread_id, "engine_key": "k"}
    for number in (1, 2):
        journal.steps.open(run.id, 1, number, fresh=[], **ids).result(5)
        usage = Usage(prompt_tokens=2, completion_tokens=1, total_tokens=3)
        done: dict[str, Any] = {"state": None, "produced": [], "asked": [], "content": [], "finish_reason": "stop"}
        journal.steps.close(run.id, 1, number, **ids, **done, usage=usage).result(5)

    report = inspection.run(run.id, run.thread_id)

    assert report.usage == Usage(prompt_tokens=4, completion_tokens=2, total_tokens=6)
    assert report.status == "running"
