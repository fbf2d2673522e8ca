"""A provider's bytes become the same events however the network cuts them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.openai.wire import Reply
from bf_plugin.engines.port import Event, StepDone, Text

WORDS = ["Grüße", " 😀", "\u2028", ' "quoted"\n', "\\", "end"]


def sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


def body() -> bytes:
    item = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "".join(WORDS)}]}
    whole = {"id": "resp_1", "status": "completed", "output": [item]}
    return b"".join(
        [
            sse("response.created", response={"id": "resp_1"}, sequence_number=0),
            *(
                sse("response.output_text.delta", delta=word, output_index=0, content_index=0, sequence_number=number)
                for number, word in enumerate(WORDS, 1)
            ),
            b": a comment\n\n",
            sse("response.completed", response=whole, sequence_number=9),
        ]
    )


def split(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in itertools.pairwise([0, *sorted(places), len(data)])]


class Pieces(Reply):
    """A reply that comes in these network reads."""

    def __init__(self, reads: Sequence[bytes]) -> None:
        self.status = 200
        self.headers = {"content-type": "text/event-stream"}
        self.left = [piece for piece in reads if piece]
        self.let_go: list[str] = []

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self.left.pop(0) if self.left else b""

    def close(self) -> None:
        self.let_go.append("close")

    def finish(self) -> None:
        self.let_go.append("finish")


def follow(reply: Reply) -> ResponseStream:
    nothing: Any = None
    return ResponseStream(
        Reader({"mode": "responses"}, key="sk-test", prompt=0),
        api=nothing,
        timeouts=Timeouts(),
        release=lambda: None,
        reply=reply,
    )


async def read(reads: Sequence[bytes], held: Sequence[int] = ()) -> tuple[list[Event], list[str]]:
    """Return the events of an answer that comes in these reads, and how its connection was let go.

    It is held back when so many reads are left, and then let go on.
    """
    reply = Pieces(reads)
    stream = follow(reply)
    events: list[Event] = []
    reading = asyncio.ensure_future(stream.read(events.extend))
    for number in held:
        while len(reply.left) > number and not reading.done():
            await asyncio.sleep(0)
        stream.hold(True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = len(reply.left)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(reply.left) == left, "nothing is read while it is held"
        stream.hold(False)
    await reading
    await stream.aclose()
    return events, reply.let_go


BODY = body()


def check(events: list[Event]) -> None:
    texts = [event for event in events if isinstance(event, Text)]
    assert [text.text for text in texts] == WORDS
    assert [text.sequence for text in texts] == list(range(1, len(WORDS) + 1))
    (done,) = [event for event in events if isinstance(event, StepDone)]
    assert done is events[-1]
    assert done.state == {"response_id": "resp_1"}


def test_every_single_cut() -> None:
    """Between any two bytes, in a line's end, in a character."""

    async def run() -> None:
        for place in range(1, len(BODY)):
            events, let_go = await read([BODY[:place], BODY[place:]])
            check(events)
            assert let_go == ["finish"], "the connection may serve the next step"

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=30), held=st.sets(st.integers(0, 30)))
def test_any_cutting(cuts: list[int], held: set[int]) -> None:
    """The network's reads fall where they like; and they may be held back."""
    events, let_go = asyncio.run(read(split(BODY, cuts), sorted(held, reverse=True)))
    check(events)
    assert let_go == ["finish"]


def test_byte_by_byte() -> None:
    """The slowest network."""
    events, let_go = asyncio.run(read([bytes([byte]) for byte in BODY]))
    check(events)
    assert let_go == ["finish"]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_other_ends_of_lines(line_end: bytes) -> None:
    """SSE has three, and each may be cut in two."""
    told = BODY.replace(b"\n", line_end)
    for size in (1, 2, 3, 7, len(told)):
        events, _ = asyncio.run(read([told[start : start + size] for start in range(0, len(told), size)]))
        check(events)


def test_a_held_stream_is_closed() -> None:
    """Whoever closes a stream that is held back lets its reader go, and its connection."""

    async def run() -> None:
        reply = Pieces([BODY[:-5], BODY[-5:]])
        stream = follow(reply)
        events: list[Event] = []
        stream.hold(True)
        reading = asyncio.ensure_future(stream.read(events.extend))
        for _ in range(5):
            await asyncio.sleep(0)
        await stream.aclose()
        await asyncio.wait_for(reading, 5)
        assert (events, reply.let_go) == ([], ["close"])

    asyncio.run(run())


def test_a_whole_response_is_known_by_its_first_byte() -> None:
    """Whatever the content type: gateways label events as JSON, and answer `stream` with one object."""
    item = {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Hello"}]}
    whole = json.dumps({"id": "resp_1", "status": "completed", "output": [item]}).encode()
    events, let_go = asyncio.run(read([whole[:9], whole[9:]]))
    assert [event.text for event in events if isinstance(event, Text)] == ["Hello"]
    assert isinstance(events[-1], StepDone)
    assert let_go == ["finish"]
