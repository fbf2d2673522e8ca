"""The events of one response, written once and read by any number of streams."""

from __future__ import annotations

import asyncio


class EventLog:
    """The events of one response as bytes, in order; readers wait for more. Used on the simulator's loop only."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.item_starts: dict[int, int] = {}
        self.closed = False
        self._waiters: list[asyncio.Future[None]] = []

    def append(self, frame: bytes) -> None:
        """Add an event and wake the readers."""
        self.frames.append(frame)
        if self._waiters:
            self._wake()

    def close(self) -> None:
        """Say that no event follows."""
        self.closed = True
        self._wake()

    async def beyond(self, position: int) -> bool:
        """Wait for events after `position`; False when there will be none."""
        while len(self.frames) <= position:
            if self.closed:
                return False
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return True

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
