"""Who may start a run: so many at once in this process, and of each app, and room kept for apps that have few."""

from __future__ import annotations

from collections.abc import Callable

from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import App

_OPEN_TO_ALL = 0.9
"""The part of the places anybody may take. The rest is for apps with less than an equal share."""


class Places:
    """The places for runs of one process; `active` tells how many are taken, in all (None) or by an app."""

    def __init__(self, limit: int, active: Callable[[str | None], int]) -> None:
        self._limit = limit
        self._active = active
        self._apps: set[str] = set()

    def check(self, app: App) -> None:
        """Raise RequestError unless there is a place for one more run of an app.

        With one app all places are its own. With several, none can take the last tenth away from the others.
        """
        self._apps.add(app.id)
        taken, own = self._active(None), self._active(app.id)
        if taken >= self._limit:
            raise RequestError(503, "all places for runs are taken: try again soon", retry_after=1)
        if app.max_runs is not None and own >= app.max_runs:
            raise RequestError(429, "this app has as many runs under way as it may have", retry_after=1)
        crowded = len(self._apps) > 1 and taken >= _OPEN_TO_ALL * self._limit
        if crowded and own >= self._limit / len(self._apps):
            raise RequestError(503, "the places left are for apps with fewer runs: try again soon", retry_after=1)
