"""A place where the simulated model stops until a test lets it go on."""

from __future__ import annotations

import asyncio
import threading


class Gate:
    """Stops a response in mid-stream, deterministically, from any thread.

    Put one between the chunks of a scripted text. Every response that comes to it waits until `release`; a released
    gate stays open.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals = 0
        self._open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def release(self) -> None:
        """Let everybody through, now and later."""
        with self._changed:
            self._open = True
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)

    def wait_reached(self, timeout: float = 10.0, *, count: int = 1) -> None:
        """Block this thread until `count` responses have come here; raises TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._arrivals >= count, timeout):
                raise TimeoutError(f"{self._arrivals} of {count} responses reached the gate in {timeout} s")

    @property
    def arrivals(self) -> int:
        """How many responses have come here, whether they wait or went through."""
        return self._arrivals

    async def passed(self) -> None:
        """Wait on the simulator's loop until the gate is open."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._changed:
            self._arrivals += 1
            self._changed.notify_all()
            if self._open:
                return
            self._waiting.append((loop, future))
        await future


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
