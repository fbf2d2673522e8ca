"""Who has fallen silent, told from heartbeats without comparing anybody's clock with another's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bf_plugin.journal.owners import OwnerRow


class Census:
    """Watches heartbeats: a process is gone when its own has not changed for `timeout` seconds of watching.

    Time in which this process did not look (it was frozen, or the database was away) does not count: then everybody's
    heartbeats were missed, and nobody is to blame.
    """

    def __init__(self, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}
        self._looked = clock()

    def gone(self, rows: Sequence[OwnerRow]) -> set[str]:
        """Return the processes among `rows` that have left, or are silent for too long."""
        now = self._clock()
        if now - self._looked > self._timeout / 2:
            self._seen = {}
        self._looked = now
        known = ((row, self._seen.get(row.id)) for row in rows)
        self._seen = {row.id: seen if seen and seen[0] == row.beat_at else (row.beat_at, now) for row, seen in known}
        return {row.id for row in rows if row.left or now - self._seen[row.id][1] >= self._timeout}
