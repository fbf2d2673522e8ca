"""A cap on server threads that wait: a host that runs out of threads could not even be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Waiters:
    """Places for requests that wait for something."""

    def __init__(self, limit: int) -> None:
        self._places = threading.Semaphore(limit)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """Take a place for the time of the block; false when there is none left."""
        taken = self._places.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._places.release()
