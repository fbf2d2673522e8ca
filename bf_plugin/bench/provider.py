"""A fake provider: `python -m bf_plugin.bench.provider`. Many response streams at a set pace, and nothing else.

Its event bytes are those of OpenAI's Responses API (API reference, "Streaming events"), so that the baseline, the SDK's
own loop, reads them too. Whether it keeps its pace is part of what it reports: else it would be what is measured.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import time
from collections import deque
from typing import Any

import msgspec

from bf_plugin.bench.control import Cpu, pin, quantiles, run, serve_commands
from bf_plugin.bench.stamps import stamp
from bf_plugin.bench.wire import ServerConnection

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":%d,'
    b'"item_id":"msg_68a1c5f2b3d481a2b7f0e1d2c3b4a596","output_index":0,"content_index":0,"delta":"%b","logprobs":[]}\n\n'
)
_TICK = 0.001


class _Stream:
    """One response; `due` is when its next delta should leave."""

    def __init__(self, connection: ServerConnection, number: int, rate: float, count: int) -> None:
        self.connection = connection
        self.rate = rate
        self.count = count
        self.sent = 0
        self.over = False
        self.response: dict[str, Any] = {
            "id": f"resp_{number:032x}",
            "object": "response",
            "status": "in_progress",
            "model": "bench",
            "background": True,
            "output": [],
        }
        self._texts: list[bytes] = []

    def begin(self) -> None:
        self.connection.write(_HEAD + _chunk(_event("response.created", 0, self.response)))

    def delta(self) -> None:
        text = stamp(first=self.sent == 0)
        self._texts.append(text)
        self.sent += 1
        self.connection.write(_chunk(_DELTA % (self.sent, text)))

    def end(self) -> None:
        text = b"".join(self._texts).decode()
        part = {"type": "output_text", "text": text, "annotations": []}
        message = {
            "type": "message",
            "id": "msg_68a1c5f2b3d481a2b7f0e1d2c3b4a596",
            "status": "completed",
            "role": "assistant",
            "content": [part],
        }
        usage = {"input_tokens": 1, "output_tokens": self.sent, "total_tokens": self.sent + 1}
        self.response |= {"status": "completed", "output": [message], "usage": usage}
        self.over = True
        self.connection.write(_chunk(_event("response.completed", self.sent + 1, self.response)) + b"0\r\n\r\n")


class Provider:
    """Answers create, retrieve and cancel; `plan` sets the pace of the streams that begin from then on."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._streams: dict[str, _Stream] = {}
        self._due: list[tuple[float, int, _Stream]] = []
        self._late: deque[float] = deque(maxlen=100_000)
        self._rate, self._count = 30.0, 100
        self._deltas = self._begun = 0
        self._cpu = Cpu()

    def handle(self, connection: ServerConnection, method: str, path: str, body: bytes) -> None:
        """Answer one request."""
        *_, last = path.partition("?")[0].split("/")
        if method == "POST" and last == "responses":
            self._create(connection)
        elif method == "POST" and last == "cancel":
            self._cancel(connection, path.split("/")[-2])
        elif stream := self._streams.get(last):
            connection.answer(200, stream.response)
        else:
            connection.answer(404, {"error": {"message": "no such response", "type": "invalid_request_error"}})

    def lost(self, connection: ServerConnection) -> None:
        """Forget the streams of a connection that is gone."""
        for stream in self._streams.values():
            if stream.connection is connection:
                stream.over = True

    def command(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command of the measuring process."""
        if name == "plan":
            self._rate, self._count = float(values["rate"]), int(values["count"])
            self._streams = {key: stream for key, stream in self._streams.items() if not stream.over}
        elif name == "reset":
            self._late.clear()
            self._deltas = self._begun = 0
            self._cpu = Cpu()
        return {"deltas": self._deltas, "begun": self._begun, "late": quantiles(self._late), **self._cpu.since()}

    async def pace(self) -> None:
        """Send what is due, for ever."""
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                due, number, stream = heapq.heappop(self._due)
                if not stream.over:
                    self._send(stream, due, number, now)
            await asyncio.sleep(_TICK)

    def _send(self, stream: _Stream, due: float, number: int, now: float) -> None:
        if stream.sent == stream.count:
            del self._streams[stream.response["id"]]
            return stream.end()
        stream.delta()
        self._deltas += 1
        self._late.append(now - due)
        return heapq.heappush(self._due, (due + 1 / stream.rate, number, stream))

    def _create(self, connection: ServerConnection) -> None:
        number = next(self._numbers)
        stream = _Stream(connection, number, self._rate, self._count)
        self._streams[stream.response["id"]] = stream
        self._begun += 1
        stream.begin()
        # Somewhere within its interval: streams do not speak in step.
        due = time.monotonic() + random.random() / stream.rate  # noqa: S311 - no secret
        heapq.heappush(self._due, (due, number, stream))

    def _cancel(self, connection: ServerConnection, response_id: str) -> None:
        stream = self._streams.get(response_id)
        if stream is None:
            return connection.answer(404, {"error": {"message": "no such response", "type": "invalid_request_error"}})
        stream.over = True
        return connection.answer(200, {**stream.response, "status": "cancelled"})


def _event(kind: str, sequence: int, response: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": kind, "sequence_number": sequence, "response": response})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _main() -> None:
    provider = Provider()
    pace = asyncio.ensure_future(provider.pace())
    await serve_commands(lambda: ServerConnection(provider.handle, provider.lost), provider.command)
    pace.cancel()


if __name__ == "__main__":
    pin(-1)
    run(_main())
