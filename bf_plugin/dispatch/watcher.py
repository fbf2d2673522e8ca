"""What other processes do, seen in the journal: a thread that waits for news, and looks after the dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bf_plugin.errors import BFError
from bf_plugin.runtime.logs import get_logger


class Watcher:
    """Calls `look` when `news` tells that another process has written, and `sweep` every `every` seconds.

    `news` is asked again after so many seconds as `tick` says; it may wait itself, and `tick` say zero.
    """

    def __init__(
        self,
        *,
        news: Callable[[], bool],
        look: Callable[[], None],
        sweep: Callable[[], None],
        tick: Callable[[], float],
        every: float,
    ) -> None:
        self._news = news
        self._look = look
        self._sweep = sweep
        self._tick = tick
        self._every = every
        self._ended = threading.Event()
        self._failing = False
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
        swept = time.monotonic()
        while not self._ended.wait(self._tick()):
            try:
                if self._news():
                    self._look()
                if time.monotonic() - swept >= self._every:
                    self._sweep()
                    swept = time.monotonic()
                self._failing = False
            except Exception as error:  # without this thread, stops and tool answers would come late for good
                self._complain(error)
                self._ended.wait(self._every)

    def _complain(self, error: Exception) -> None:
        if not self._failing:
            known = isinstance(error, BFError)
            self._log.error("cannot watch the journal: %s", error, error=None if known else error)
        self._failing = True
