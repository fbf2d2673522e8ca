"""The switches that make the simulator misbehave, each as some real server has been seen to.

A switch holds for the whole server until it is cleared, or for the next `times` requests it applies to.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Switch:
    """One way to misbehave: what it does, and its arguments with their defaults."""

    does: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


_ANSWER = {"on": "create"}
_STREAM = {"on": "*", "after": None}

SWITCHES: Mapping[str, Switch] = MappingProxyType(
    {
        # instead of an answer; `on` is an operation of the API or "*"
        "status": Switch(
            "answers with an HTTP error in the provider's shape; `retry_after` in seconds",
            {**_ANSWER, "status": 500, "code": None, "message": None, "retry_after": None},
        ),
        "detail_error": Switch(
            'answers with the body {"detail": ...}, which has no code',
            {**_ANSWER, "status": 400, "detail": "Bad Request"},
        ),
        "drop": Switch(
            "drops the socket instead of answering; `late`: after the request took effect",
            {**_ANSWER, "late": False},
        ),
        "hang": Switch("takes the request and never answers; `late`: after it took effect", {**_ANSWER, "late": False}),
        "slow_accept": Switch("waits before anything is done or sent", {**_ANSWER, "seconds": 0.0, "gate": None}),
        # refusals
        "refuse_parameter": Switch(
            "refuses requests that have `param`; `named`: the error's own field says which, not only its text",
            {
                "param": "background",
                "code": "unknown_parameter",
                "message": "Unknown parameter: '{param}'.",
                "named": True,
            },
        ),
        "refuse_background_stream": Switch(
            "refuses background together with stream",
            {"message": "background cannot be combined with stream.", "param": None, "code": None},
        ),
        "conversation_locked": Switch("says that the conversation is locked"),
        "previous_response_expired": Switch("does not know the previous response any more"),
        "no_conversations": Switch("has no /conversations", {"status": 404}),
        "no_retrieve": Switch("has no GET of a response", {"status": 404}),
        "no_cancel": Switch("has no cancel", {"status": 404}),
        # in the events of a response
        "no_sequence_numbers": Switch("leaves sequence_number out of all events"),
        "sequence_from_one": Switch("counts events from 1"),
        "no_text_done": Switch("sends no response.output_text.done and no response.content_part.done"),
        "no_created": Switch("sends no response.created and no response.in_progress"),
        "unknown_events": Switch("sends a keepalive between all events", {"type": "keepalive"}),
        "incomplete_completed": Switch(
            "sends response.completed whose status is incomplete", {"reason": "max_output_tokens"}
        ),
        "no_usage": Switch("leaves usage null"),
        "null_conversation": Switch("says conversation: null in every response"),
        "output_when_done": Switch("shows no output of a response that is still in progress"),
        "lone_surrogates": Switch("cuts every astral character in two halves, in two deltas"),
        "generation_hangs": Switch(
            "stops generating for good after `after` events; `keepalive`: seconds between keepalive events",
            {"after": 3, "keepalive": None},
        ),
        # on the way of a stream; `on` is create, resume or "*"; `after` counts events, None: just before the last
        "stream_drops": Switch(
            "drops the socket after `after` events or `after_bytes` bytes; `goes_on`: a foreground response survives",
            {**_STREAM, "after_bytes": None, "goes_on": False},
        ),
        "stream_ends": Switch("ends the stream properly, but early", {**_STREAM, "goes_on": True}),
        "stream_hangs": Switch(
            "falls silent while the response goes on; `keepalive`: seconds between keepalive events",
            {**_STREAM, "keepalive": None},
        ),
        "chunking": Switch(
            "cuts the bytes of the stream: at `positions`, into pieces of `size`, or at random from `seed`; "
            "`delay` seconds apart",
            {"on": "*", "positions": None, "size": None, "seed": 0, "delay": 0.0},
        ),
        # resuming and reading
        "plain_resume": Switch("answers GET ?stream=true with plain JSON"),
        "resume_shifted": Switch(
            "starts a resumed stream `skip` events late; `repeat`: with the present item from its top, under its old "
            "sequence numbers or (`renumber`) under later ones",
            {"skip": 2, "repeat": True, "renumber": False},
        ),
        "resume_expired": Switch("refuses to resume a stream", {"status": 400}),
        "endless_pages": Switch("says has_more for ever, starting over at the end of a list"),
        # cancelling and committing
        "cancel_completes": Switch("answers a cancel, but the response completes anyway", {"answer": "cancelled"}),
        "cancel_hangs_stream": Switch("leaves the stream of a cancelled response open and silent", {"keepalive": None}),
        "cancel_ends_stream": Switch("ends the stream of a cancelled response without a last event"),
        "commit_late": Switch(
            "commits a conversation's items later than the stream says; `locked`: it stays locked until then",
            {"seconds": 0.0, "gate": None, "locked": False},
        ),
        "commit_on_cut": Switch(
            "commits what a cut-off response has: `calls` False: the user's message only", {"calls": True}
        ),
        "call_not_committed": Switch("shows a function call in the stream, but never commits it"),
    }
)
"""Every switch by name."""


@dataclass(slots=True, eq=False)
class Fault:
    """A switch that is on; `used` counts the requests it took effect on."""

    name: str
    arguments: Mapping[str, Any]
    times: int | None = None
    used: int = 0

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    @property
    def live(self) -> bool:
        """Tell whether it will take effect again."""
        return self.times is None or self.used < self.times


class Faults:
    """The panel of switches of one server, safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: list[Fault] = []

    def set(self, name: str, *, times: int | None = None, **arguments: Any) -> Fault:
        """Turn a switch on; raises ValueError for an unknown name or argument."""
        switch = SWITCHES.get(name)
        if switch is None:
            raise ValueError(f"no fault is called {name!r}; there are: {', '.join(sorted(SWITCHES))}")
        unknown = set(arguments) - set(switch.arguments)
        if unknown:
            raise ValueError(f"fault {name!r} has no argument {', '.join(sorted(unknown))}")
        fault = Fault(name, {**switch.arguments, **arguments}, times)
        with self._lock:
            self._on.append(fault)
        return fault

    def clear(self, name: str | None = None) -> None:
        """Turn one switch off, or all."""
        with self._lock:
            self._on = [] if name is None else [fault for fault in self._on if fault.name != name]

    def take(self, name: str, *, on: str | None = None, when: Callable[[Fault], bool] | None = None) -> Fault | None:
        """Return the first live fault of that name that applies, counted as used once more."""
        with self._lock:
            for fault in self._live(name):
                if on is not None and fault["on"] not in ("*", on):
                    continue
                if when is not None and not when(fault):
                    continue
                fault.used += 1
                return fault
        return None

    def _live(self, name: str) -> Iterator[Fault]:
        return (fault for fault in self._on if fault.name == name and fault.live)
