"""What other processes of this host do, seen in the journal: a thread that polls, cheaply and often."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bf_plugin.errors import BFError
from bf_plugin.logs import get_logger

_TICK = 0.02
_SWEEP = 0.5


class Watcher:
    """Calls `look` when somebody else has written, at most every 20 ms, and `sweep` every half second.

    `version` tells whether anybody wrote: the journal's data version, which costs a few microseconds to read.
    """

    def __init__(self, *, version: Callable[[], int], look: Callable[[], None], sweep: Callable[[], None]) -> None:
        self._version = version
        self._look = look
        self._sweep = sweep
        self._ended = threading.Event()
        self._log = get_logger(__name__)
        self._thread = threading.Thread(target=self._work, name="bf-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _work(self) -> None:
        seen, swept = -1, time.monotonic()
        while not self._ended.wait(_TICK):
            try:
                if (version := self._version()) != seen:
                    seen = version
                    self._look()
                if time.monotonic() - swept >= _SWEEP:
                    self._sweep()
                    swept = time.monotonic()
            except BFError as error:
                self._log.error("cannot watch the journal: %s", error)
                self._ended.wait(_SWEEP)
