"""At most so many calls at once, each with a slot of its own; the one used last goes first, so that few stay warm."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure, Remedy


class Slot(Protocol):
    """What a call needs to itself: a connection, a session."""

    def close(self) -> None:
        """Let go of what it holds. Raises nothing."""
        ...


T = TypeVar("T", bound=Slot)


class Pool(Generic[T]):
    """`limit` slots. A slot is with one thread at a time, so it needs no lock of its own."""

    def __init__(self, limit: int, make: Callable[[], T]) -> None:
        self._closed = False
        self._slots: queue.LifoQueue[T] = queue.LifoQueue()
        for _ in range(limit):
            self._slots.put(make())

    @contextmanager
    def lend(self, deadline: Deadline) -> Iterator[T]:
        """Lend a slot, waiting for one until the deadline. Raises Failure when none comes free, or after `close`."""
        if self._closed:
            raise Failure("it was not called, the gateway is closing", Remedy.LATER)
        try:
            slot = self._slots.get(timeout=deadline.left())
        except queue.Empty:
            raise Failure(
                f"it was not called, other calls left no room for it within {deadline.seconds:g} seconds",
                Remedy.LATER,
                advice="raise `concurrency`, or make the scripts faster",
            ) from None
        try:
            yield slot
        finally:
            self._slots.put(slot)
            if self._closed:
                self._drain()

    def close(self) -> None:
        """Close the slots that are free now, and each of the others when it comes back."""
        self._closed = True
        self._drain()

    def _drain(self) -> None:
        # Whoever returns a slot puts it back before it looks at `_closed`, so one of the two sees it here.
        while True:
            try:
                slot = self._slots.get_nowait()
            except queue.Empty:
                return
            slot.close()
