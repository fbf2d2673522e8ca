"""Forgetting in time: what is older than the operator's retention is purged, by every process now and then."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from bf_plugin.journal import Journal
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import settled

INTERVAL = 3600.0
"""Seconds between two purges of one process, give or take a tenth, so that processes do not purge in step."""

_FIRST = 60.0
_PAUSE = 0.05
_DAY = 86400.0


class Retention:
    """Purges the journal of runs and threads older than `days`. `run` is a task on the loop."""

    def __init__(self, journal: Journal, days: float, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep):
        self._journal = journal
        self._age = days * _DAY
        self._sleep = sleep
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Purge soon after the start, and then every hour, until cancelled."""
        pause = _FIRST
        while True:
            await self._sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - no secret
            pause = INTERVAL
            try:
                removed = await self.purge()
            except Exception as error:  # the next one may work; runs go on meanwhile
                self._log.error("cannot purge the journal: %s", error, error=error)
            else:
                if removed:
                    self._log.info("purged %d rows of the journal", removed)

    async def purge(self) -> int:
        """Remove all that is too old, in batches; return how many rows."""
        before, removed = time.time() - self._age, 0
        while batch := await settled(self._journal.purge(before)):
            removed += batch
            await self._sleep(_PAUSE)
        return removed
