"""Group commit: what drivers seal within a few milliseconds of each other goes into one transaction.

Called on the event loop only, so that a group costs one hand-over to the writer's thread and one back, however many
runs it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from typing import Any

from bf_plugin.journal.writer import Keyed, Outcome, Writer

INTERVAL = 0.005
"""Seconds between the beginnings of two groups; the first of a quiet time begins at once."""


class Groups:
    """Jobs of one kind on their way to the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Keyed, asyncio.Future[Any]]] = []
        self._resting = False

    def add(self, keyed: Keyed) -> asyncio.Future[Any]:
        """Have a job carried out with the next group; the future has what it returned once that is committed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first, or after a fork or a test that had a loop of its own
            self._loop, self._waiting, self._resting = loop, [], False
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((keyed, future))
        if not self._resting:
            self._resting = True
            loop.call_soon(self._begin, loop)  # after all that this turn of the loop seals
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            self._resting = False
            return
        group, self._waiting = self._waiting, []
        loop.call_later(INTERVAL, self._begin, loop)
        committed = self._writer.submit_all([keyed for keyed, _ in group])
        committed.add_done_callback(lambda done: _hand_back(loop, [future for _, future in group], done))


def _hand_back(
    loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[Any]], committed: Future[list[Outcome]]
) -> None:
    """Give the outcomes to the loop, from the writer's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, futures, committed)


def _settle(futures: list[asyncio.Future[Any]], committed: Future[list[Outcome]]) -> None:
    error = committed.exception()
    outcomes = [(None, error)] * len(futures) if error is not None else committed.result()
    for future, (value, failure) in zip(futures, outcomes, strict=True):
        if future.done():
            continue  # whoever waited was cancelled
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
