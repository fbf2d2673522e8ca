"""The connections a provider's streams come over, with real sockets and servers that do as they like."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable

import pytest

from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.openai.engine import OpenAIEngine
from bf_plugin.engines.port import Access, BaseStream, Event, StepDone, StepRequest, Text
from bf_plugin.errors import ProviderError
from bf_plugin.items import Item, text_message
from loops import LOOPS, NewLoop

KEY = "sk-0123456789abcdef"

Serve = Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]
"""Answers one request, told by its head."""


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def delta(text: str) -> bytes:
    return event("response.output_text.delta", output_index=0, content_index=0, delta=text)


CREATED = event("response.created", response={"id": "resp_1", "status": "in_progress"})
COMPLETED = event("response.completed", response={"id": "resp_1", "status": "completed", "output": []})
HELLO = CREATED + delta("Hel") + delta("lo") + COMPLETED
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def request() -> StepRequest:
    async def nothing() -> list[Item]:
        return []

    return StepRequest(
        run_id="run",
        number=1,
        model="m",
        instructions=None,
        tools=(),
        options={},
        metadata={},
        new=[text_message("user", "Hi")],
        state=None,
        history=nothing,
    )


def play(
    serve: Serve,
    use: Callable[[BaseStream], Awaitable[None]],
    *,
    new_loop: NewLoop = asyncio.new_event_loop,
    path: str = "/v1",
    engine: OpenAIEngine | None = None,
) -> list[bytes]:
    """Ask a server once; return the heads of the requests it was sent."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        await serve(writer, heads[-1])
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        used = engine or OpenAIEngine(state_mode="local")
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
        try:
            stream = await used.start(request(), Access(api_key=KEY, base_url=base_url))
            await use(stream)
            await stream.aclose()
        finally:
            await used.aclose()
            server.close()

    loop = new_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    return heads


async def says_hello(stream: BaseStream) -> None:
    events: list[Event] = []
    await asyncio.wait_for(stream.read(events.extend), 10)
    assert "".join(event.text for event in events if isinstance(event, Text)) == "Hello"
    assert isinstance(events[-1], StepDone)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_server_is_held_back(new_loop: NewLoop) -> None:
    """While nothing is read, it can send no more than the network's buffers take; then all comes."""
    piece, pieces = delta("x" * 2**16), 600
    sent = 0
    stuck = asyncio.Event()

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal sent
        writer.write(HEAD + b"Connection: close\r\n\r\n" + CREATED)
        for _ in range(pieces):
            writer.write(piece)
            draining = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait({draining}, timeout=0.2))[0]:
                stuck.set()
            await draining
            sent += 1
        writer.write(COMPLETED)

    async def use(stream: BaseStream) -> None:
        events: list[Event] = []
        reading = asyncio.ensure_future(stream.read(events.extend))
        while not events:
            await asyncio.sleep(0.001)
        stream.hold(True)
        await asyncio.sleep(0.05)
        came = len(events)
        await asyncio.wait_for(stuck.wait(), 60)
        assert (len(events), reading.done()) == (came, False)
        assert sent < pieces
        stream.hold(False)
        await asyncio.wait_for(reading, 60)
        assert sum(len(event.text) for event in events if isinstance(event, Text)) == pieces * 2**16

    play(serve, use, new_loop=new_loop)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(HEAD + b"Connection: close\r\n\r\n" + HELLO, id="until it closes"),
        pytest.param(HEAD.replace(b"\r\n", b"\n") + b"\n" + HELLO, id="bare line feeds in the head"),
        pytest.param(HEAD + b"Content-Length: 100000\r\n\r\n" + HELLO, id="cut off behind the last event"),
        pytest.param(HEAD.replace(b"text/event-stream", b"application/json") + b"\r\n" + HELLO, id="labelled JSON"),
        pytest.param(HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(HELLO), id="compressed unasked"),
    ],
)
def test_answers_of_odd_servers(answer: bytes) -> None:
    """All of them were seen; each is read."""

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(answer)
        await writer.drain()

    play(serve, says_hello)


def test_what_expands_without_end_is_read_bit_by_bit() -> None:
    """A megabyte may stand for a gigabyte: the event it would be is refused before it is there."""
    bomb = HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(CREATED + b"data: " + bytes(200 * 2**20), 1)

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(bomb)
        await writer.drain()

    async def use(stream: BaseStream) -> None:
        with pytest.raises(ProviderError, match="the provider lost the response"):
            await stream.read(lambda events: None)

    play(serve, use)


def test_a_redirect_is_refused() -> None:
    """The key stays where the operator wanted it."""

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1:9/v1/responses\r\nContent-Length: 0\r\n\r\n")

    with pytest.raises(ProviderError, match="answered 307") as caught:
        play(serve, says_hello)
    assert caught.value.status == 307


def test_the_query_of_a_base_url_is_sent() -> None:
    """Azure's older endpoints want `api-version` with every request."""

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(HEAD + b"\r\n" + HELLO)

    (head,) = play(serve, says_hello, path="/openai/?api-version=2025-04-01-preview")
    assert head.startswith(b"POST /openai/responses?api-version=2025-04-01-preview HTTP/1.1\r\n")


def test_a_first_token_may_take_its_time() -> None:
    """What cannot be resumed is waited for longer than what can."""

    async def serve(writer: asyncio.StreamWriter, head: bytes) -> None:
        await asyncio.sleep(0.5)
        writer.write(HEAD + b"\r\n" + CREATED)
        await asyncio.sleep(0.5)
        writer.write(HELLO)

    timeouts = Timeouts(silence=0.1, long_silence=30.0)
    play(serve, says_hello, engine=OpenAIEngine(state_mode="local", timeouts=timeouts))
