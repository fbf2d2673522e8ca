"""The answer to one step: events as they come, over reconnects, and by polling where a server cannot do better."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from bf_plugin.engines.openai.api import Api, Connection
from bf_plugin.engines.openai.patience import Patience
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.transcript import lost
from bf_plugin.engines.port import Event
from bf_plugin.logs import get_logger

_log = get_logger(__name__)

_CANNOT_RESUME = (400, 404, 405, 501)
_CANNOT_POLL = (400, 401, 403, 404, 405, 501)
_LAST_BYTES = 0.2


class ResponseStream:
    """Follows one response; implements the port's Stream.

    Without a connection it reconnects at the reader's cursor first. `release` gives the client back.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        api: Api,
        patience: Patience,
        release: Callable[[], None],
        connection: Connection | None = None,
    ) -> None:
        self._reader = reader
        self._api = api
        self._patience = patience
        self._release: Callable[[], None] | None = release
        self._ready: deque[Sequence[Event]] = deque()
        self._resumes = 0
        self._can_resume = True
        self._polls = self._idle_polls = self._failed_polls = 0
        self._heard = 0
        self._heard_at = patience.clock()
        self._connection = connection

    @property
    def handle(self) -> dict[str, Any]:
        """Names the response."""
        return self._reader.handle

    async def open(self) -> None:
        """Read until the provider has named the response. Raises ProviderError when it refuses after all."""
        while not self.handle.get("response_id") and not self._ready:
            if self._reader.failure:
                raise self._reader.failure
            if self._connection is None:
                raise lost("its stream ended before it was named")
            await self._read(self._connection)

    async def batches(self) -> AsyncIterator[Sequence[Event]]:
        """Yield the events of each network read; the last is a StepDone. Raises ProviderError."""
        while True:
            while self._ready:
                yield self._ready.popleft()
            if self._reader.failure:
                raise self._reader.failure
            if self._reader.over or self._release is None:
                return
            if self._connection is not None:
                await self._read(self._connection)
            else:
                await self._recover()

    async def aclose(self) -> None:
        """Close the connection and give the client back."""
        release, self._release = self._release, None
        await self._disconnect()
        if release is not None:
            release()

    async def _read(self, connection: Connection) -> None:
        """Take what one network read brings; let go of the connection when there is no more to come."""
        cursor = self._reader.cursor
        frames = await connection.read()
        if events := self._reader.take(frames or ()):
            self._ready.append(events)
        if self._reader.cursor > cursor:
            self._resumes = 0
        if frames is None or self._is_silent(connection):
            await self._disconnect()

    def _is_silent(self, connection: Connection) -> bool:
        """Tell whether only keepalives came for too long. Total silence ends a read by its time-out."""
        now = self._patience.clock()
        if connection.heard != self._heard:
            self._heard, self._heard_at = connection.heard, now
        return now - self._heard_at > self._patience.silence

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._reader.over:
            # The body's end comes right behind the last event; read, it leaves a connection the next step can use.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.read(), _LAST_BYTES)
        await connection.aclose()

    async def _recover(self) -> None:
        """Reconnect where that may work, else poll."""
        response_id = self.handle.get("response_id")
        self._reader.reconnected()
        if not response_id or self.handle["mode"] == "local":
            self._reader.failure = lost("its stream broke off and the provider keeps no copy")
        elif self._may_resume():
            await self._resume(response_id)
        else:
            await self._poll(response_id)

    def _may_resume(self) -> bool:
        attempts_left = self._resumes < len(self._patience.resume_waits)
        possible = self._can_resume and not self._reader.whole and self._reader.cursor >= 0
        return possible and attempts_left and bool(self.handle.get("background"))

    async def _resume(self, response_id: str) -> None:
        await self._patience.sleep(self._patience.resume_waits[self._resumes])
        self._resumes += 1
        try:
            self._connection = await self._api.resume(response_id, self._reader.cursor)
        except Problem as problem:
            _log.info("the stream of a response cannot be resumed: %s", problem)
            self._can_resume = problem.status not in _CANNOT_RESUME
        else:
            self._heard, self._heard_at = 0, self._patience.clock()

    async def _poll(self, response_id: str) -> None:
        """Ask for the whole response and bring what text is missing."""
        if self._polls:
            await self._patience.sleep(self._patience.poll)
        self._polls += 1
        try:
            response = await self._api.retrieve(response_id)
        except Problem as problem:
            self._failed_polls += 1
            if problem.status in _CANNOT_POLL or self._failed_polls > self._patience.poll_failures:
                self._reader.failure = lost("it cannot be retrieved")
            return
        events = self._reader.take_snapshot(response)
        self._failed_polls, self._idle_polls = 0, 0 if events else self._idle_polls + 1
        if events:
            self._ready.append(events)
        elif self._idle_polls >= self._patience.foreground_polls and not self.handle.get("background"):
            self._reader.failure = self._reader.failure or lost("its connection broke off before it was complete")
