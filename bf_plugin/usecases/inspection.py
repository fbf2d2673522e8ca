"""What a page that comes back, or an operator, is shown: a run's state, its events, a thread's messages.

Request threads call this. Everything is read from the journal, so any process of the deployment answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.errors import RequestError, invalid
from bf_plugin.gateway.events import events_in, step_texts
from bf_plugin.items import Message, Part, text_message
from bf_plugin.journal import Journal, RunRecord
from bf_plugin.journal.records import Sealed
from bf_plugin.journal.states import ENDED, QUEUED
from bf_plugin.runtime.ids import is_ours
from bf_plugin.usecases.admission import Admission
from bf_plugin.values import Usage

POLL = 0.1
"""Seconds between two queries of each stream that waits; each uses an index, in the request's thread."""

HEARTBEAT = 15.0
"""Seconds of silence after which a stream yields an empty batch: writing it shows whether the reader is gone."""

_STATE_EVERY = 1.0

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """A run as a page may know it. `status` is queued, running, or the outcome; `seq` is the last event in `text`."""

    run_id: str
    thread_id: str = field(repr=False)
    status: str
    text: str = field(repr=False)
    seq: int
    usage: Usage
    finish_reason: str | None
    error: Mapping[str, Any] | None


class Inspection:
    """Reads runs and threads. Knowing a run's two ids is the permission, as it is for stopping it."""

    def __init__(self, *, journal: Journal, admission: Admission) -> None:
        self._runs = journal.runs
        self._messages = journal.log
        self._overview = journal.overview
        self._admission = admission
        self._closed = threading.Event()

    def close(self) -> None:
        """End all streams: this process closes."""
        self._closed.set()

    def run(self, run_id: str, thread_id: str) -> RunReport:
        """Return a run. Raises RequestError 404 for a pair that is not known."""
        record = self._record(run_id, thread_id)
        events = self._events_after(run_id, 0)
        usage = record.usage
        if record.state != ENDED:
            usage = sum((step.usage for step in self._overview.steps(run_id)), Usage())
        return RunReport(
            run_id=run_id,
            thread_id=thread_id,
            status=_status(record, over=bool(events) and events[-1]["type"] == "end"),
            text="".join(event["content"] for event in events if event["type"] == "delta"),
            seq=events[-1]["seq"] if events else 0,
            usage=usage,
            finish_reason=record.finish_reason,
            error=record.error,
        )

    def events(self, run_id: str, thread_id: str, after: int = 0) -> list[Event]:
        """Return the events of a run whose seq is above `after`. Raises RequestError 404."""
        self._record(run_id, thread_id)
        return self._events_after(run_id, after)

    def follow(
        self, run_id: str, thread_id: str, after: int = 0, gone: Callable[[], bool] = lambda: False
    ) -> Following | None:
        """Return the events above `after` as they are committed, None if the run is over and has no such events.

        `gone` tells whether the reader has left. Raises RequestError 404, and 503 when too many requests wait.
        """
        record = self._record(run_id, thread_id)
        if record.state == ENDED and not self._messages.after(run_id, after):
            return None
        with ExitStack() as stack:
            if not stack.enter_context(self._admission.waiting()):
                raise RequestError(503, "too many requests wait for events: ask for them as JSON", retry_after=1)
            return Following(self._tail(run_id, after, gone), stack.pop_all())

    def messages(self, thread_id: str, app: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """Return what was said in the newest `limit` runs of a thread, oldest first, and whether there is more.

        What the model said is taken from the events, so it is what `on_delta` let through. Raises RequestError 404.
        """
        if not (is_ours(thread_id) and self._runs.has_thread(thread_id, app)):
            raise invalid("threadId", "is not known to this app", 404)
        turns = self._overview.turns(thread_id, limit + 1)
        found: list[dict[str, Any]] = []
        for run_id, asked in turns[-limit:]:
            found += [_published(run_id, message) for message in asked if message["role"] in ("user", "assistant")]
            texts = step_texts(self._events_after(run_id, 0))  # one for each step
            found += [_published(run_id, text_message("assistant", text)) for text in texts if text]
        return found, len(turns) > limit

    def _record(self, run_id: str, thread_id: str) -> RunRecord:
        record = self._runs.get(run_id, thread_id) if is_ours(run_id) and is_ours(thread_id) else None
        if record is None:
            raise invalid("runId", "is not known with this threadId", 404)
        return record

    def _events_after(self, run_id: str, seq: int) -> list[Event]:
        return _events(self._messages.after(run_id, seq), seq)

    def _tail(self, run_id: str, after: int, gone: Callable[[], bool]) -> Iterator[Sequence[Event]]:
        """Yield batches until `end`, the run's disappearance or this process's; empty ones are heartbeats."""
        number, spoken, looked = 0, time.monotonic(), 0.0
        over = False
        while not over:
            now = time.monotonic()
            if now - looked >= _STATE_EVERY:  # before the events are read: what it committed earlier is among them
                over, looked = self._overview.state(run_id) in (ENDED, None), now
            rows = self._messages.after(run_id, after, number)
            batch = _events(rows, after)
            number = rows[-1].number if rows else number
            over = over or any(event["type"] == "end" for event in batch)
            if batch or now - spoken >= HEARTBEAT:
                spoken = now
                yield batch
            over = over or self._closed.wait(POLL) or gone()  # a wake-up would come in here


class Following:
    """Batches of events as they are committed. Counts as a request that waits until it ends or is closed."""

    def __init__(self, batches: Iterator[Sequence[Event]], waiting: ExitStack) -> None:
        self._batches = batches
        self._waiting = waiting

    def __iter__(self) -> Iterator[Sequence[Event]]:
        return self

    def __next__(self) -> Sequence[Event]:
        try:
            return next(self._batches)
        except BaseException:  # StopIteration too
            self.close()
            raise

    def close(self) -> None:
        """Wait no more; may be called again."""
        self._waiting.close()


def _events(rows: Sequence[Sealed], after: int) -> list[Event]:
    return [event for row in rows for event in events_in(row.body) if event["seq"] > after]


def _published(run_id: str, message: Message) -> dict[str, Any]:
    """Return a message in the Assistants' form."""
    return {"role": message["role"], "runId": run_id, "content": [_part(part) for part in message["content"]]}


def _part(part: Part) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": {"value": part["text"]}}
    rest = {key: value for key, value in part.items() if key != "type"}
    if part["type"] == "file":
        return {"type": "file", "file": rest}
    kind = "image_file" if "file_id" in part else "image_url"
    return {"type": kind, kind: rest}


def _status(record: RunRecord, over: bool) -> str:
    """Return the outcome only once `end` is on record: a page that sees an outcome also finds the end."""
    if record.outcome is not None and (over or record.state == ENDED):
        return record.outcome
    return "queued" if record.state == QUEUED else "running"
