"""The answer to one step: events as they come, over reconnects, and by polling where a server cannot do better."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from bf_plugin.engines.openai.api import Api
from bf_plugin.engines.openai.decode import SNAPSHOT, BrokenStreamError, Decoder, Frame, loads
from bf_plugin.engines.openai.patience import Patience
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.reply import Reply
from bf_plugin.engines.openai.transcript import lost
from bf_plugin.engines.port import BaseStream, Event, Take
from bf_plugin.runtime.logs import get_logger

_log = get_logger(__name__)

_CANNOT_RESUME = (400, 404, 405, 501)
_CANNOT_POLL = (400, 401, 403, 404, 405, 501)
_LOOKS = 4
"""How often within the silence limit it is looked whether anything was heard."""


def _drop(events: Sequence[Event]) -> None:
    """Take what nobody wants any more."""


class ResponseStream(BaseStream):
    """Follows one response.

    Without a reply it reconnects at the reader's cursor first. `release` gives the client back.

    What a network read brings is decoded and handed on in the connection's own callback: no task is woken for it. Only
    the end of a connection wakes `read`, which then recovers, or returns.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        api: Api,
        patience: Patience,
        release: Callable[[], None],
        reply: Reply | None = None,
    ) -> None:
        self.handle = reader.handle
        self._reader = reader
        self._api = api
        self._patience = patience
        self._release: Callable[[], None] | None = release
        self._reply: Reply | None = None
        self._decoder = Decoder()
        self._watch: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._early: list[Event] = []
        self._take: Take = self._early.extend
        self._named = reply is None
        self._held = False
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
            await self._change()
        self._named = True

    async def read(self, take: Take) -> None:
        """Hand the events of each network read to `take`; the last is a StepDone. Raises ProviderError."""
        early, self._early = self._early, []
        self._take = take
        if early:
            take(early)
        try:
            while not self._reader.over and self._release is not None:
                if self._reader.failure:
                    raise self._reader.failure
                if self._reply is not None:
                    await self._change()
                else:
                    await self._recover()
        finally:
            self._take = _drop  # who was cancelled hears nothing more

    def hold(self, holding: bool) -> None:
        """Read nothing for now, or go on; see the port."""
        self._held = holding
        if self._reply is not None:
            self._reply.hold(holding)

    async def aclose(self) -> None:
        """Close the connection and give the client back."""
        release, self._release = self._release, None
        self._disconnect()
        self._changed.set()
        if release is not None:
            release()

    # in the connection's callbacks

    def _follow(self, reply: Reply, *, resumed: bool) -> None:
        self._reply = reply
        self._decoder = Decoder(everything=resumed)
        self._wait_for_a_sound(heard=0, looks=0)
        whole = reply.headers.get("content-type", "").startswith("application/json")
        parts: list[bytes] = []
        pour, ended = (parts.append, lambda: self._whole(b"".join(parts))) if whole else (self._pour, self._ended)
        reply.pour(pour, ended)

    def _pour(self, data: bytes) -> None:
        try:
            self._hand_on(self._decoder.feed(data))
        except BrokenStreamError as broken:
            _log.warning("provider stream broken: %s", broken)
            self._disconnect()
            self._changed.set()
        if not self._named or self._reader.over or self._reader.failure:
            self._changed.set()

    def _ended(self) -> None:
        self._hand_on(self._decoder.flush())
        self._disconnect()
        self._changed.set()

    def _whole(self, body: bytes) -> None:
        """Take a whole response object where events were asked for."""
        try:
            self._hand_on([{"type": SNAPSHOT, "response": loads(body)}])
        except ValueError:
            _log.debug("provider stream lost: its answer is not JSON")
        self._disconnect()
        self._changed.set()

    def _hand_on(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        cursor = self._reader.cursor
        if events := self._reader.take(frames):
            self._take(events)
        if self._reader.cursor > cursor:
            self._resumes = 0

    def _wait_for_a_sound(self, heard: int, looks: int) -> None:
        """Let go of a connection that brings nothing, or only keepalives, for too long."""
        if self._decoder.heard != heard or self._held:
            heard, looks = self._decoder.heard, 0
        if looks > _LOOKS:
            _log.info("a provider stream fell silent")
            self._disconnect()
            self._changed.set()
            return
        pause = self._patience.silence / _LOOKS
        self._watch = asyncio.get_running_loop().call_later(pause, self._wait_for_a_sound, heard, looks + 1)

    def _disconnect(self) -> None:
        reply, self._reply = self._reply, None
        if self._watch is not None:
            self._watch.cancel()
        if reply is None:
            return
        if self._reader.over:
            reply.close()
        else:
            reply.abort()

    # in the task of `open` and `read`

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

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
            reply = await self._api.resume(response_id, self._reader.cursor)
        except Problem as problem:
            _log.info("the stream of a response cannot be resumed: %s", problem)
            self._can_resume = problem.status not in _CANNOT_RESUME
        else:
            self._follow(reply, resumed=True)

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
            self._take(events)
        elif self._idle_polls >= self._patience.foreground_polls and not self.handle.get("background"):
            self._reader.failure = self._reader.failure or lost("its connection broke off before it was complete")
