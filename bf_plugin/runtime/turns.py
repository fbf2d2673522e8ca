"""A fair queue, for worker threads and connections: owners take turns, however much each has put in."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Things that wait: first in, first out for each owner (an app, mostly), and one owner after the other.

    It has no lock: threads that share it hold their own.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def put(self, owner: str, thing: T) -> None:
        """Let a thing wait for its owner's turn."""
        self._lines.setdefault(owner, deque()).append(thing)
        self._length += 1

    def take(self) -> T:
        """Return the next thing. Raises LookupError when nothing waits."""
        if not self._lines:
            raise LookupError("nothing waits")
        owner, line = next(iter(self._lines.items()))
        thing = line.popleft()
        self._length -= 1
        if line:
            self._lines.move_to_end(owner)
        else:
            del self._lines[owner]
        return thing
