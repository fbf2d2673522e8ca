"""A provider's bytes, HTTP and all, become the same events however the network and the server cut them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.engines.openai.patience import Patience
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.reply import Reply
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.port import Event, StepDone, Text
from bf_plugin.runtime.connections.connection import HttpConnection

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


def answer(pieces: Sequence[bytes]) -> bytes:
    """Return the whole answer, its body in these chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def split(data: bytes, places: Sequence[int]) -> list[bytes]:
    return [data[start:stop] for start, stop in itertools.pairwise([0, *sorted(places), len(data)])]


class Transport(asyncio.Transport):
    """Takes the request and nothing more."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = self.paused = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.ended

    def abort(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def asked() -> tuple[HttpConnection, Transport, Reply, list[HttpConnection]]:
    """Return a connection that waits for an answer, what is below and above it, and where it goes when it is free."""
    free: list[HttpConnection] = []
    transport = Transport()
    connection = HttpConnection(free.append, lambda gone: None)
    connection.connection_made(transport)
    reply = Reply(connection)
    connection.send(b"GET / HTTP/1.1\r\n\r\n", reply)
    return connection, transport, reply, free


async def read(reads: Sequence[bytes], held: Sequence[int] = ()) -> tuple[list[Event], list[HttpConnection]]:
    """Return the events of an answer that comes in these reads, and the connections free for another request.

    It is held back after some of the reads, and then let go.
    """
    connection, transport, reply, free = asked()
    events: list[Event] = []
    arriving = iter([piece for piece in reads if piece])
    while not reply.status:  # the head: what is more than it waits in the reply
        connection.data_received(next(arriving))
    nothing: Any = None
    stream = ResponseStream(
        Reader({"mode": "responses"}, key="sk-test", prompt=0),
        api=nothing,
        patience=Patience(),
        release=lambda: None,
        reply=reply,
    )
    reading = asyncio.ensure_future(stream.read(events.extend))
    for number, piece in enumerate(arriving):
        await asyncio.sleep(0)
        connection.data_received(piece)
        if number in held and not reading.done():
            stream.hold(True)
            assert transport.paused or free, "nothing more is read, unless all was"
            await asyncio.sleep(0)
            stream.hold(False)
        assert not transport.paused
    await reading
    await stream.aclose()
    return events, free


BODY = body()
WHOLE = answer([BODY])


def check(events: list[Event]) -> None:
    texts = [event for event in events if isinstance(event, Text)]
    assert [text.text for text in texts] == WORDS
    assert [text.sequence for text in texts] == list(range(1, len(WORDS) + 1))
    (done,) = [event for event in events if isinstance(event, StepDone)]
    assert done is events[-1]
    assert done.state == {"response_id": "resp_1"}


def test_every_single_cut() -> None:
    """Between any two bytes, in the head, in a chunk's size, in a character."""

    async def run() -> None:
        for place in range(1, len(WHOLE)):
            events, free = await read([WHOLE[:place], WHOLE[place:]])
            check(events)
            assert len(free) == 1, "the connection serves the next step"

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.integers(0, len(BODY)), max_size=20),
    held=st.sets(st.integers(0, 30)),
    data=st.data(),
)
def test_any_cutting(chunks: list[int], held: set[int], data: st.DataObject) -> None:
    """The server's chunks and the network's reads fall where they like; and they may be held back."""
    sent = answer(split(BODY, chunks))
    reads = data.draw(st.lists(st.integers(0, len(sent)), max_size=30))
    events, free = asyncio.run(read(split(sent, reads), sorted(held)))
    check(events)
    assert len(free) == 1


def test_a_connection_is_not_held_for_who_has_it_next() -> None:
    """Whoever closes a stream that is held back leaves the last bytes to be read, and the connection as it was."""

    async def run() -> None:
        connection, transport, reply, free = asked()
        connection.data_received(WHOLE[:-5])
        reply.hold(True)
        assert transport.paused
        reply.close()
        assert not transport.paused
        connection.data_received(WHOLE[-5:])
        assert free == [connection]

    asyncio.run(run())


def test_byte_by_byte() -> None:
    events, free = asyncio.run(read([bytes([byte]) for byte in WHOLE]))
    check(events)
    assert len(free) == 1
