"""A conversation that plays the driver for the OpenAI engine, and what the provider was asked meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from bf_plugin.engines.openai import OpenAIEngine
from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.port import Access, Event, State, StepDone, StepRequest, Text
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionTool, Item, text_message
from bf_plugin.testing.provider import ProviderSimulator

KEY = "sk-proj-0123456789abcdef"
TOOL: FunctionTool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


SENTENCE = "The quick brown fox jumps over the lazy dog, twice. 😀 Grüße!"
MODES = ["responses", "conversation", "local"]


@dataclass
class Talk:
    """Plays the driver for one thread: history, what the state covers, and the next step."""

    engine: OpenAIEngine
    access: Access
    items: list[Item] = field(default_factory=list)
    covered: int = 0
    state: State | None = None
    began_with: State | None = None
    stream: ResponseStream | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1

    async def start(self, *new: Item) -> ResponseStream:
        self.items += new
        history = list(self.items[: self.covered])

        async def read_history() -> Sequence[Item]:
            return history

        self.began_with = self.state
        request = StepRequest(
            run_id="run_1",
            number=self.number,
            model="gpt-6-astra",
            instructions="Be brief.",
            tools=[TOOL],
            options=self.options,
            metadata={},
            new=list(self.items[self.covered :]),
            state=self.state,
            history=read_history,
        )
        self.stream = await self.engine.start(request, self.access)
        return self.stream

    async def events(self) -> list[Event]:
        assert self.stream is not None
        events: list[Event] = []
        await self.stream.read(events.extend)
        return events

    async def broken(self) -> tuple[str, ProviderError]:
        """Read a stream that fails: what was said before, and how it failed."""
        assert self.stream is not None
        events: list[Event] = []
        try:
            await self.stream.read(events.extend)
        except ProviderError as problem:
            await self.stream.aclose()
            return spoken(events), problem
        raise AssertionError("the stream did not fail")

    async def step(self, *new: Item) -> tuple[str, StepDone]:
        await self.start(*new)
        assert self.stream is not None
        events = await self.events()
        await self.stream.aclose()
        done = events[-1]
        assert isinstance(done, StepDone)
        self.state = done.state
        self.items += done.items
        self.covered = len(self.items)
        return spoken(events), done

    async def say(self, sentence: str) -> str:
        return (await self.step(text_message("user", sentence)))[0]

    async def cut(self, *seen: Item, cancel: bool = True) -> None:
        """Stop in mid-step; `seen` is what the driver keeps of the step."""
        assert self.stream is not None
        await self.stream.aclose()
        if cancel:
            await self.engine.cancel(self.stream.handle, self.access)
        self.state = self.engine.cut(self.began_with, self.stream.handle)
        self.items += seen


class Sleeps:
    """Stands in for asyncio.sleep: notes what it is asked for, and does something instead of waiting."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.instead: Callable[[], Any] = lambda: None

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.instead()
        await asyncio.sleep(0.005)


async def first(stream: ResponseStream) -> None:
    """Read a stream until it says something, then no further."""
    said = asyncio.Event()
    reading = asyncio.ensure_future(stream.read(lambda events: said.set()))
    await asyncio.wait_for(said.wait(), 10)
    reading.cancel()


def output_of(call_id: str, result: str = "found") -> Item:
    return {"type": "function_output", "call_id": call_id, "output": result}


def spoken(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def run(
    provider: ProviderSimulator,
    play: Callable[[Talk], Coroutine[Any, Any, None]],
    *,
    key: str = KEY,
    timeouts: Timeouts | None = None,
    **options: Any,
) -> None:
    async def main() -> None:
        engine = OpenAIEngine(timeouts=timeouts or Timeouts(sleep=Sleeps()), **options)
        try:
            await play(Talk(engine, Access(api_key=key, base_url=provider.base_url, request_id="req_mine")))
        finally:
            await engine.aclose()

    asyncio.run(main())
    provider.wait_until(lambda: provider.open_streams == 0)


def operations(provider: ProviderSimulator) -> list[str | None]:
    return [request.operation for request in provider.requests]


def bodies(provider: ProviderSimulator) -> list[dict[str, Any]]:
    return [request.body for request in provider.requests if request.operation == "create"]


async def fails(awaitable: Awaitable[Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await awaitable
    return caught.value
