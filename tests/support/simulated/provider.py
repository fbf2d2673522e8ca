"""A provider that says what it is told to, keeps chains of responses, and refuses what real ones refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bf_plugin.engines.port import (
    Access,
    BaseEngine,
    BaseStream,
    Cursor,
    Event,
    Handle,
    State,
    StepDone,
    StepRequest,
    Take,
    Text,
)
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, text_message
from bf_plugin.runtime.text import well_formed
from bf_plugin.values import Usage
from simulated.clock import live

Status = Literal["open", "done", "failed", "lost", "cancelled"]


@dataclass(slots=True, eq=False)
class Response:
    """One response: `texts` with the part each belongs to, in order; `context` is what the model saw."""

    id: str
    run_id: str
    step: int
    context: Sequence[Item]
    texts: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    calls: list[FunctionCall] = field(default_factory=list)
    status: Status = "open"
    watchers: list[asyncio.Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def parts(self) -> list[str]:
        """The text of each part."""
        places = sorted({part for _, part in self.texts})
        return [well_formed("".join(text for text, part in self.texts if part == place)) for place in places]

    @property
    def items(self) -> list[Item]:
        said: list[Item] = [text_message("assistant", text) for text in self.parts if text]
        return [*said, *self.calls]

    def say(self, text: str, *, new_part: bool) -> None:
        output = self.texts[-1][1][0] if self.texts else 0
        self.texts.append((text, (output + new_part, 0)))
        self.notify()

    def end(self, status: Status) -> None:
        self.status = status
        self.notify()

    def notify(self) -> None:
        for watcher in self.watchers:
            watcher.set()


@dataclass(slots=True, eq=False)
class Knock:
    """A request that waits to be accepted or refused."""

    run_id: str
    answer: asyncio.Future[None]


class Provider:
    """What all processes ask. While it is `slow`, requests wait until somebody settles them."""

    def __init__(self) -> None:
        self.slow = False
        self.knocks: list[Knock] = []
        self.responses: dict[str, Response] = {}

    @property
    def open(self) -> list[Response]:
        return [response for response in self.responses.values() if response.status == "open"]

    def create(self, request: StepRequest, context: Sequence[Item]) -> Response:
        response = Response(f"resp_{len(self.responses) + 1}", request.run_id, request.number, context)
        self.responses[response.id] = response
        return response

    def kept(self, state: State | None) -> Sequence[Item]:
        """Return what the provider has of a thread; raises AssertionError when that cannot be gone on from."""
        if state is None:
            return ()
        parent = self.responses[state["response_id"]]
        if parent.status != "done":
            raise AssertionError(f"a thread goes on from a response that is {parent.status}")
        return [*parent.context, *parent.items]


class Line(BaseEngine):
    """The engine: what all processes reach the provider by. Dead ones hear and say nothing."""

    def __init__(
        self, provider: Provider, check: Callable[[str, Sequence[Item]], None], blame: Callable[[str], None]
    ) -> None:
        self._provider = provider
        self._check = check
        self._blame = blame

    async def start(self, request: StepRequest, access: Access) -> Following:
        await live()
        if self._provider.slow:
            await self._knock(request.run_id)
        history = () if request.state is not None else await request.history()
        try:
            context = [*history, *self._provider.kept(request.state), *request.new]
            self._check(request.run_id, context)
        except AssertionError as error:
            self._blame(str(error))
            raise ProviderError(str(error), status=400) from None
        response = self._provider.create(request, context)
        await asyncio.sleep(0)  # the answer is on its way
        return Following(response, 0)

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> Following:
        await live()
        response = self._provider.responses[handle["response_id"]]
        known = "".join(cursor.texts[part] for part in sorted(cursor.texts))
        if not response.text.startswith(known):
            self._blame(f"resumed with a text that the provider never said: {known!r} of {response.text!r}")
        return Following(response, cursor.sequence + 1)

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        await live()
        response = self._provider.responses[handle["response_id"]]
        if response.status == "open":
            response.end("cancelled")
        return None

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        return state

    async def aclose(self) -> None:
        pass

    async def _knock(self, run_id: str) -> None:
        knock = Knock(run_id, asyncio.get_running_loop().create_future())
        self._provider.knocks.append(knock)
        try:
            await knock.answer
        finally:
            self._provider.knocks.remove(knock)


class Following(BaseStream):
    """One process's stream of a response, from event number `position` on."""

    def __init__(self, response: Response, position: int) -> None:
        self.handle: Handle = {"response_id": response.id}
        self._response = response
        self._position = position
        self._news = asyncio.Event()
        response.watchers.append(self._news)

    async def read(self, take: Take) -> None:
        while True:
            await live()
            self._news.clear()
            if batch := self._unread():
                take(batch)
                await asyncio.sleep(0)  # what comes next is another network read
                continue
            if self._response.status == "done":
                return take([self._done()])
            if self._response.status != "open":
                raise _failure(self._response.status)
            await self._news.wait()

    async def aclose(self) -> None:
        if self._news in self._response.watchers:
            self._response.watchers.remove(self._news)

    def _unread(self) -> list[Event]:
        if self._response.status == "lost":
            return []
        batch: list[Event] = []
        for text, part in self._response.texts[self._position :]:
            batch.append(Text(text, self._position, part))
            self._position += 1
        return batch

    def _done(self) -> StepDone:
        response = self._response
        return StepDone(
            state={"response_id": response.id},
            items=response.items,
            calls=response.calls,
            content=[{"type": "text", "text": {"value": text}} for text in response.parts],
            usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2),
        )


def _failure(status: str) -> ProviderError:
    if status == "lost":
        return ProviderError("the response is lost", code="provider_lost_response")
    return ProviderError(f"the response has {status}", code="server_error")


def call_item(name: str, call_id: str, arguments: str) -> FunctionCall:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
