"""Who is let in: how many runs may be under way in this process, of each app and in all, and how many requests wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import App

_OPEN_TO_ALL = 0.9
"""The part of the runs any app may have. The rest is for apps with less than an equal share."""


class Admission:
    """Admits runs and requests that wait; `active` tells how many runs are under way, in all (None) or of an app."""

    def __init__(self, *, max_runs: int, max_waiters: int, active: Callable[[str | None], int]) -> None:
        self._max_runs = max_runs
        self._active = active
        self._waiters = threading.Semaphore(max_waiters)
        self._apps: set[str] = set()
        self._counting = threading.Lock()  # between counting the runs under way and adding one

    @contextmanager
    def waiting(self) -> Iterator[bool]:
        """Count a request that waits, for the time of the block; false when as many wait as may.

        A host whose threads all wait could not even be told to stop a run.
        """
        admitted = self._waiters.acquire(blocking=False)
        try:
            yield admitted
        finally:
            if admitted:
                self._waiters.release()

    @contextmanager
    def new_run(self, app: App) -> Iterator[None]:
        """Admit one more run of an app, which the block adds to those under way. Raises RequestError.

        With one app all runs are its own. With several, none can take the last tenth away from the others.
        """
        with self._counting:
            self._apps.add(app.id)
            taken, own = self._active(None), self._active(app.id)
            if taken >= self._max_runs:
                raise RequestError(503, "all places for runs are taken: try again soon", retry_after=1)
            if app.max_runs is not None and own >= app.max_runs:
                raise RequestError(429, "this app has as many runs under way as it may have", retry_after=1)
            crowded = len(self._apps) > 1 and taken >= _OPEN_TO_ALL * self._max_runs
            if crowded and own >= self._max_runs / len(self._apps):
                raise RequestError(503, "the places left are for apps with fewer runs: try again soon", retry_after=1)
            yield
