"""Group commit: what drivers seal within a few milliseconds of each other goes into one transaction.

Called on the event loop only. A group is committed there and then where that can be done without waiting,
else it costs one hand-over to the writer's thread and one back, however many runs it is for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from bf_plugin.journal.seals import Seal, seal_together
from bf_plugin.journal.writer import Keyed, Outcome, Writer

_REST = 0.002
"""Seconds after a group that the loop committed by itself; the first of a quiet time begins at once."""

_REST_HANDED_OVER = 0.005
"""The same after one that was handed over to the writer, which costs more: there groups shall be larger."""


class Groups:
    """Messages on their way to the writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[Seal, asyncio.Future[None]]] = []
        self._resting = False

    def add(self, seal: Seal) -> asyncio.Future[None]:
        """Have a message sealed with the next group; the future is done once that is committed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first, or after a fork or a test that had a loop of its own
            self._loop, self._waiting, self._resting = loop, [], False
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((seal, future))
        if not self._resting:
            self._resting = True
            loop.call_soon(self._begin, loop)  # after all that this turn of the loop seals
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            self._resting = False
            return
        group, self._waiting = sorted(self._waiting, key=_run_of), []
        seals, futures = [seal for seal, _ in group], [future for _, future in group]
        together = partial(seal_together, seals)
        if self._writer.at_once(together, len(seals)):
            loop.call_later(_REST, self._begin, loop)
            _settle(futures, [(None, None)] * len(futures))
        else:
            loop.call_later(_REST_HANDED_OVER, self._begin, loop)
            committed = self._writer.submit_all([Keyed(seal.run_id, seal) for seal in seals], together)
            committed.add_done_callback(lambda done: _hand_back(loop, futures, done))


def _run_of(waiting: tuple[Seal, object]) -> str:
    """Return what groups are in the order of: two processes that lock rows in one order do not lock each other out."""
    return waiting[0].run_id


def _hand_back(
    loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[Any]], committed: Future[list[Outcome]]
) -> None:
    """Give the outcomes to the loop, from the writer's thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        error = committed.exception()
        outcomes = [(None, error)] * len(futures) if error is not None else committed.result()
        loop.call_soon_threadsafe(_settle, futures, outcomes)


def _settle(futures: list[asyncio.Future[Any]], outcomes: Sequence[Outcome]) -> None:
    for future, (value, failure) in zip(futures, outcomes, strict=True):
        if future.done():
            continue  # whoever waited was cancelled
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
