"""How a start waits for its run, across the border between request threads and the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.errors import RequestError
from bf_plugin.journal.records import Ending
from bf_plugin.values import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class FullEnding(Ending):
    """How a run ended, for a caller that waited. `content` is the published `data`, text after `on_delta`."""

    usage: Usage
    content: Sequence[Mapping[str, Any]] = field(repr=False)


class Ticket:
    """What the request thread of a start and the driver of its run tell each other.

    Acceptance is decided once, by the first of two: the driver that has an answer of the provider, or the caller that
    no longer waits. `release` lets the first event go: not before the start is answered.
    """

    def __init__(self) -> None:
        self._accepted: Future[None] = Future()
        self._claimed = False
        self.ended: Future[FullEnding] = Future()
        self.released: Future[None] = Future()

    # the driver's side

    def accept(self) -> None:
        """Tell the caller that the run exists."""
        if self.claim():
            self._accepted.set_result(None)

    def claim(self) -> bool:
        """Take the right to answer the caller; returns true once, and only while the caller waits."""
        if self._claimed:
            return False
        self._claimed = True
        return self._accepted.set_running_or_notify_cancel()

    def refuse(self, error: RequestError) -> None:
        """Answer the caller with `error`; only after `claim`."""
        self._accepted.set_exception(error)

    def end(self, ending: FullEnding) -> None:
        """Answer a caller that waits for the end."""
        if not self.ended.done():
            self.ended.set_result(ending)

    def fail(self, error: RequestError) -> None:
        """Answer a caller that still waits with `error`: this process cannot bring the run to its end."""
        if self.claim() or (self._claimed and not self._accepted.done()):
            self._accepted.set_exception(error)
        if not self.ended.done():
            self.ended.set_exception(error)

    def when_answered(self, call: Callable[[], object]) -> None:
        """Call `call`, in any thread, once the answer to the caller is decided."""
        self._accepted.add_done_callback(lambda _: call())

    # the caller's side

    def wait_accepted(self, seconds: float | None) -> None:
        """Return when the run exists, or after `seconds`: the start is then answered as if it did.

        Raises the error that the driver refused the start with.
        """
        try:
            self._accepted.result(timeout=seconds)
        except FutureTimeoutError:
            if not self._accepted.cancel():
                self._accepted.result()

    def release(self) -> None:
        """Let the driver send events; may be called again, from several threads."""
        with contextlib.suppress(InvalidStateError):
            self.released.set_result(None)
