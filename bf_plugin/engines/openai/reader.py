"""Reads the frames of one response into events: what is new text, when it is over, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bf_plugin.engines.openai.decode import SNAPSHOT, Frame, TextDelta, index_of, sequence_of, starts_part
from bf_plugin.engines.openai.problems import event_problem
from bf_plugin.engines.openai.results import TERMINAL, failure_of, item_texts, state_after, step_done, texts_of
from bf_plugin.engines.openai.transcript import Part, Transcript
from bf_plugin.engines.port import Event, Text
from bf_plugin.errors import ProviderError

_ENDINGS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
_TEXTS_DONE = {"response.output_text.done": "text", "response.refusal.done": "refusal"}


class Reader:
    """One response as far as it has been read.

    `handle` gets its response id from the first event that has one. `cursor` is the last sequence number seen, -1
    without any; `prompt` the number of characters sent, and `key` what must not show in an error.
    """

    def __init__(
        self, handle: dict[str, Any], *, key: str, prompt: int, transcript: Transcript | None = None, cursor: int = -1
    ) -> None:
        self.handle = handle
        self.cursor = cursor
        self.over = False
        self.whole = False
        self.failure: ProviderError | None = None
        self._key = key
        self._prompt = prompt
        self._transcript = transcript or Transcript()
        self._output: dict[int, Any] = {}
        self._place_known = True

    def reconnected(self) -> None:
        """A new connection follows. Its first number will tell whether anything was skipped."""
        self._transcript.reconnected()
        self._place_known = False

    def take(self, frames: Sequence[Frame]) -> list[Event]:
        """Return the events of some frames. A failure is kept, so that text read before it still goes out."""
        events: list[Event] = []
        try:
            for frame in frames:
                if isinstance(frame, TextDelta):
                    self._take_delta(frame, events)
                elif not self.over:
                    self._take_event(frame, events)
        except ProviderError as failure:
            self.failure = failure
        return events

    def take_snapshot(self, response: Mapping[str, Any]) -> list[Event]:
        """Return the events of a whole response object, as a poll brings it."""
        return self.take([{"type": SNAPSHOT, "response": response}])

    def _take_delta(self, delta: TextDelta, events: list[Event]) -> None:
        part = delta.output_index, delta.content_index
        sequence = delta.sequence_number
        if sequence is not None:
            self._reach(sequence)
        if text := self._transcript.add(part, delta.delta, ragged=delta.ragged):
            events.append(Text(text, -1 if sequence is None else sequence, part))

    def _take_event(self, event: Mapping[str, Any], events: list[Event]) -> None:
        kind = event["type"]
        sequence = sequence_of(event)
        if sequence is not None:
            self._reach(sequence)
        if kind == "error":
            raise event_problem(event, self._key)
        response = event.get("response")
        if isinstance(response, Mapping) or kind in _ENDINGS:
            self._take_response(kind, response or {}, sequence, events)
        elif kind in _TEXTS_DONE:
            part = index_of(event, "output_index"), index_of(event, "content_index")
            self._settle(part, event.get(_TEXTS_DONE[kind]), sequence, events)
        elif kind == "response.output_item.done":
            number, item = index_of(event, "output_index"), event.get("item")
            self._output[number] = item
            for part, _, full in item_texts(number, item):
                self._settle(part, full, sequence, events)
        elif starts_part(kind):
            self._transcript.started(index_of(event, "output_index"))

    def _take_response(self, kind: str, response: Mapping[str, Any], sequence: int | None, events: list[Event]) -> None:
        self._learn_id(kind, response)
        status = str(response.get("status"))
        if kind in _ENDINGS and status not in TERMINAL:
            status = _ENDINGS[kind]
        self.whole = self.whole or kind == SNAPSHOT
        ended = kind in _ENDINGS or (kind == SNAPSHOT and status in TERMINAL)
        if ended and (failure := failure_of({**response, "status": status}, self._key)):
            raise failure
        if ended or kind == SNAPSHOT:
            self._take_output(response.get("output") or (), sequence, events, final=ended)
        if ended:
            self._end({**response, "status": status}, events)

    def _learn_id(self, kind: str, response: Mapping[str, Any]) -> None:
        if not isinstance(response.get("id"), str):
            if kind == SNAPSHOT:
                raise event_problem(response, self._key)
        elif not self.handle.get("response_id"):
            self.handle["response_id"] = response["id"]
            self.handle["background"] = bool(response.get("background", self.handle.get("background")))

    def _take_output(self, output: Sequence[Any], sequence: int | None, events: list[Event], *, final: bool) -> None:
        texts = [(part, full) for part, _, full in texts_of(output)]
        known = self._transcript.align([part for part, _ in texts])
        for part, full in texts:
            self._settle(known[part], full, sequence, events, final=final)

    def _settle(self, part: Part, full: Any, sequence: int | None, events: list[Event], *, final: bool = True) -> None:
        if isinstance(full, str) and (tail := self._transcript.settle(part, full, final=final)):
            events.append(Text(tail, -1 if sequence is None else sequence, part))

    def _end(self, response: Mapping[str, Any], events: list[Event]) -> None:
        output = response.get("output") or [self._output[number] for number in sorted(self._output)]
        state = state_after(self.handle, output)
        events.append(step_done(response, output, self._transcript, state=state, prompt=self._prompt))
        self.over = True

    def _reach(self, sequence: int) -> None:
        if not self._place_known:
            self._place_known = True
            if sequence == self.cursor + 1:
                self._transcript.resumed()
        if sequence > self.cursor:
            self.cursor = sequence
