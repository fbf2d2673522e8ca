"""One step of a run while it is made: listened to where there is a stream, asked about where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from bf_hook_assistants.answer import Answer, Part
from bf_hook_assistants.api import Api
from bf_hook_assistants.place import Place
from bf_hook_assistants.problems import failure, lost
from bf_hook_assistants.reply import Reply, is_run
from bf_hook_assistants.run import calls_of, finish_of, usage_of, waits
from bf_hook_assistants.sse import Frame
from bf_plugin import ProviderError, Usage
from bf_plugin.engines.port import Handle, StepDone, Take, Text

_WHOLE = ("thread.message.completed", "thread.message.incomplete")


class RunStream:
    """Implements the port's Stream. A stream of this API cannot be taken up again: what is missing is asked for."""

    def __init__(
        self,
        place: Place,
        api: Api,
        *,
        poll_seconds: float,
        reply: Reply | None = None,
        known: Mapping[Part, str] | None = None,
    ) -> None:
        self.handle: Handle = place.handle()
        self._place = place
        self._run = place.run or ""
        self._api = api
        self._poll_seconds = poll_seconds
        self._reply = reply
        self._answer = Answer(known)
        self._free = asyncio.Event()
        self._free.set()

    async def read(self, take: Take) -> None:
        """Hand over text as it comes, then the step's end. Raises ProviderError."""
        run = await self._listen(take)
        if run is None:
            run = await self._wait()
            await self._catch_up(take)
        calls = calls_of(run, self._api.key)
        take(self._answer.rest())
        end = StepDone(
            state=self._place.state(tail=self._answer.last, calls=calls),
            items=[*self._answer.items, *calls],
            calls=calls,
            content=self._answer.content,
            usage=usage_of(run) or Usage(estimated=not calls),
            finish_reason=finish_of(run),
        )
        take([end])

    def hold(self, holding: bool) -> None:
        """Read nothing for now, or go on; what comes meanwhile stays in the connection's buffers."""
        if holding:
            self._free.clear()
        else:
            self._free.set()

    async def aclose(self) -> None:
        """Let go of the connection."""
        if self._reply is not None:
            self._reply.close()

    async def _listen(self, take: Take) -> Mapping[str, Any] | None:
        """Read the stream; return the run that ended it, None if it just ended. Raises ProviderError for an error."""
        if self._reply is None:
            return None
        while True:
            await self._free.wait()
            if (frames := await self._reply.batch()) is None:
                return None
            texts, end = self._heard(frames)
            take(texts)
            if isinstance(end, ProviderError):
                raise end
            if end is not None:
                return end

    def _heard(self, frames: Sequence[Frame]) -> tuple[list[Text], Mapping[str, Any] | ProviderError | None]:
        """Return the text of one network read, and what ended the step in it: the run, or an error."""
        texts: list[Text] = []
        for event, data in frames:
            if event == "error":
                return texts, failure(data, self._api.key)
            if not isinstance(data, Mapping):
                continue
            if event == "thread.message.delta":
                texts += self._answer.delta(data)
            elif event in _WHOLE:
                texts += self._answer.message(data)
            elif is_run(event) and not waits(data, self._place.answered):
                return texts, data
        return texts, None

    async def _wait(self) -> Mapping[str, Any]:
        """Ask for the run until its step is over."""
        while True:
            try:
                run = await self._api.run(self._place.thread, self._run)
            except ProviderError as problem:
                if problem.status == 404:
                    raise lost(problem.message) from None
                raise
            if not waits(run, self._place.answered):
                return run
            await asyncio.sleep(self._poll_seconds)

    async def _catch_up(self, take: Take) -> None:
        """Ask for the messages of the step, and hand over what nobody has heard."""
        for message in await self._api.messages(self._place.thread, after=self._place.tail, run=self._run):
            take(self._answer.message(message, polled=True))
