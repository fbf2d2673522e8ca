"""The answer to one step: events as they come, over reconnects, and by polling where a server cannot do better."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bf_plugin.engines.openai.api import Api, Timeouts
from bf_plugin.engines.openai.decode import BrokenStreamError, Decoder
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.transcript import lost
from bf_plugin.engines.openai.wire import Reply
from bf_plugin.engines.port import BaseStream, Event, Take
from bf_plugin.runtime.logs import get_logger

_log = get_logger(__name__)

_CANNOT_RESUME = (400, 404, 405, 501)
_CANNOT_POLL = (400, 401, 403, 404, 405, 501)
_LOOKS = 4
"""How often within the silence limit it is looked whether anything was heard."""


class ResponseStream(BaseStream):
    """Follows one response. Without a reply it reconnects at the reader's cursor. `release` gives the client back."""

    def __init__(
        self,
        reader: Reader,
        *,
        api: Api,
        timeouts: Timeouts,
        release: Callable[[], None],
        reply: Reply | None = None,
    ) -> None:
        self.handle = reader.handle
        self._reader = reader
        self._api = api
        self._timeouts = timeouts
        self._release: Callable[[], None] | None = release
        self._reply: Reply | None = None
        self._decoder = Decoder()
        self._watch: asyncio.TimerHandle | None = None
        self._early: list[Event] = []
        self._held = False
        self._flowing = asyncio.Event()
        self._resumes = 0
        self._can_resume = True
        self._polls = self._idle_polls = self._failed_polls = 0
        if reply is not None:
            self._follow(reply, resumed=False)

    async def open(self) -> None:
        """Read until the provider has named the response. Raises ProviderError when it refuses after all."""
        while not self.handle.get("response_id") and not self._early:
            if self._reader.failure:
                raise self._reader.failure
            if self._reply is None:
                raise lost("its stream ended before it was named")
            await self._read(self._reply, self._early.extend)

    async def read(self, take: Take) -> None:
        """Hand the events of each network read to `take`; the last is a StepDone. Raises ProviderError."""
        if self._early:
            take(self._early)
        while not self._reader.over and self._release is not None:
            if self._reader.failure:
                raise self._reader.failure
            if self._reply is not None:
                await self._read(self._reply, take)
            else:
                await self._recover(take)

    def hold(self, holding: bool) -> None:
        """Read nothing for now, or go on; see the port."""
        self._held = holding
        if not holding:
            self._flowing.set()

    async def aclose(self) -> None:
        """Close the connection and give the client back."""
        release, self._release = self._release, None
        self._disconnect()
        if release is not None:
            release()

    def _follow(self, reply: Reply, *, resumed: bool) -> None:
        self._reply = reply
        self._decoder = Decoder(everything=resumed)
        self._wait_for_a_sound(heard=0, looks=0)

    async def _read(self, reply: Reply, take: Take) -> None:
        """Hand on what one network read brings."""
        if self._held:
            self._flowing.clear()
            await self._flowing.wait()
        data = await reply.read()
        if self._reply is not reply:  # closed, or silent for too long
            return None
        try:
            frames = self._decoder.feed(data) if data else self._decoder.flush()
        except BrokenStreamError as broken:
            _log.warning("provider stream broken: %s", broken)
            return self._disconnect()
        if frames:
            cursor = self._reader.cursor
            if events := self._reader.take(frames):
                take(events)
            if self._reader.cursor > cursor:
                self._resumes = 0
        return None if data else self._disconnect()

    def _wait_for_a_sound(self, heard: int, looks: int) -> None:
        """Let go of a connection that brings nothing, or only keepalives, for too long."""
        if self._decoder.heard != heard or self._held:
            heard, looks = self._decoder.heard, 0
        if looks > _LOOKS:
            _log.info("a provider stream fell silent")
            return self._disconnect()
        limit = self._timeouts.silence if self.handle.get("background") else self._timeouts.long_silence
        self._watch = asyncio.get_running_loop().call_later(limit / _LOOKS, self._wait_for_a_sound, heard, looks + 1)
        return None

    def _disconnect(self) -> None:
        """Let go of the connection, which ends a read that is under way."""
        reply, self._reply = self._reply, None
        if self._watch is not None:
            self._watch.cancel()
        self.hold(False)
        if reply is not None:
            reply.finish() if self._reader.over else reply.close()

    async def _recover(self, take: Take) -> None:
        """Reconnect where that may work, else poll."""
        response_id = self.handle.get("response_id")
        self._reader.reconnected()
        if not response_id or self.handle["mode"] == "local":
            self._reader.failure = lost("its stream broke off and the provider keeps no copy")
        elif self._may_resume():
            await self._resume(response_id)
        else:
            await self._poll(response_id, take)

    def _may_resume(self) -> bool:
        attempts_left = self._resumes < len(self._timeouts.resume_waits)
        possible = self._can_resume and not self._reader.whole and self._reader.cursor >= 0
        return possible and attempts_left and bool(self.handle.get("background"))

    async def _resume(self, response_id: str) -> None:
        await self._timeouts.sleep(self._timeouts.resume_waits[self._resumes])
        self._resumes += 1
        try:
            reply = await self._api.resume(response_id, self._reader.cursor)
        except Problem as problem:
            _log.info("the stream of a response cannot be resumed: %s", problem)
            self._can_resume = problem.status not in _CANNOT_RESUME
        else:
            self._follow(reply, resumed=True)

    async def _poll(self, response_id: str, take: Take) -> None:
        """Ask for the whole response and bring what text is missing."""
        if self._polls:
            await self._timeouts.sleep(self._timeouts.poll)
        self._polls += 1
        try:
            response = await self._api.retrieve(response_id)
        except Problem as problem:
            self._failed_polls += 1
            if problem.status in _CANNOT_POLL or self._failed_polls > self._timeouts.poll_failures:
                self._reader.failure = lost("it cannot be retrieved")
            return
        events = self._reader.take_snapshot(response)
        self._failed_polls, self._idle_polls = 0, 0 if events else self._idle_polls + 1
        if events:
            take(events)
        elif self._idle_polls >= self._timeouts.foreground_polls and not self.handle.get("background"):
            self._reader.failure = self._reader.failure or lost("its connection broke off before it was complete")
