"""Starting once however often the caller asks: the `Idempotency-Key` of a start."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from bf_plugin.bodies import StartRequest
from bf_plugin.errors import RequestError, invalid
from bf_plugin.gateway.apps import App
from bf_plugin.gateway.events import events_in, step_texts
from bf_plugin.journal import Journal
from bf_plugin.journal.keys import Claim, FirstStart, KeyTaken
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.usecases.admission import Admission
from bf_plugin.usecases.start import ACCEPT_TIMEOUT, Origin, Started, Starts, completed

_LONGEST = 255
_POLL = 0.05
_GRACE = 1.0
"""Seconds after which a first start that should have been answered never will be: its process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What of a start's answer cannot be read from the run itself."""

    warnings: Sequence[str] = ()
    result: FullEnding | None = field(default=None, repr=False)


class Once:
    """Starts runs, each key's once. A key is free again when its start was refused."""

    def __init__(self, *, starts: Starts, journal: Journal, admission: Admission) -> None:
        self._starts = starts
        self._keys = journal.keys
        self._runs = journal.runs
        self._messages = journal.log
        self._admission = admission

    def start(self, request: StartRequest, app: App, origin: Origin, claim: Claim | None) -> Started:
        """Start a run, or return what the first start with this key was answered.

        Raises what `Starts.start` raises, RequestError 422 for a key that came with another body.
        """
        if claim is None:
            return self._starts.start(request, app, origin)
        while True:
            first = self._keys.get(app.id, claim.key)
            if first is None:
                try:
                    return self._first(request, app, origin, claim)
                except KeyTaken:
                    continue  # by a repeat that was faster
            if first.body != claim.body:
                raise invalid("Idempotency-Key", "came with another body before", 422)
            repeated = self._repeat(first, request, app, claim)
            if repeated is not None:
                return repeated

    def _first(self, request: StartRequest, app: App, origin: Origin, claim: Claim) -> Started:
        started = self._starts.start(request, app, origin, claim)
        # Not awaited: an answer that is not kept is made from the run.
        self._keys.answer(
            started.run_id, msgspec.to_builtins(_Answer(warnings=started.warnings, result=started.ending))
        )
        return started

    def _repeat(self, first: FirstStart, request: StartRequest, app: App, claim: Claim) -> Started | None:
        """Return the first start's answer, once there is one; None when that start was refused."""
        with self._admission.waiting() as may_wait:
            while first.answer is None and not _is_lost(first, request):
                if not may_wait:
                    if request.stream:
                        break
                    raise RequestError(503, "too many callers wait for answers: try later", retry_after=1)
                time.sleep(_POLL)
                now = self._keys.get(app.id, claim.key)
                if now is None or now.run_id != first.run_id:
                    return None
                first = now
        answer = msgspec.convert(first.answer, _Answer) if first.answer else _Answer(warnings=request.warnings)
        ending = answer.result or (None if request.stream else self._ending(first))
        ids = {"run_id": first.run_id, "thread_id": first.thread_id}
        return Started(**ids, ticket=Ticket(), warnings=answer.warnings, ending=ending)

    def _ending(self, first: FirstStart) -> FullEnding:
        """Return how a run ended whose caller was never answered, or was answered with an error, which is raised."""
        record = self._runs.get(first.run_id, first.thread_id)
        if record is None:
            raise RequestError(404, "the run of this key is not kept any longer")
        texts = step_texts(event for row in self._messages.after(record.id) for event in events_in(row.body))
        text = texts[-1] if record.outcome == "completed" else "".join(texts)
        ended: dict[str, Any] = {"status": record.outcome, "finish_reason": record.finish_reason}
        content = [{"type": "text", "text": {"value": text}}] if text else []
        return completed(FullEnding(**ended, usage=record.usage, content=content, error=record.error), record)


def claim_of(key: str | None, body: Mapping[str, Any]) -> Claim | None:
    """Return what a start's header claims, None without one. Bodies are the same when their JSON is.

    Raises RequestError 400 for a key that is none.
    """
    if key is None:
        return None
    if not (0 < len(key) <= _LONGEST and key.isascii() and key.isprintable()):
        raise invalid("Idempotency-Key", f"must be 1 to {_LONGEST} printable ASCII characters")
    return Claim(_digest(key), _digest(key + "\0" + json.dumps(body, sort_keys=True)))


def _digest(text: str) -> str:
    return hashlib.sha256(b"bf_plugin start\0" + text.encode()).hexdigest()


def _is_lost(first: FirstStart, request: StartRequest) -> bool:
    """Tell whether the process that should have kept the answer is gone: then only the run tells."""
    answered_at = first.created_at + ACCEPT_TIMEOUT if request.stream else first.ended_at
    return answered_at is not None and time.time() > answered_at + _GRACE
