"""The connections of the two hot paths, with real sockets."""

from __future__ import annotations

import asyncio

import pytest

from bf_plugin.runtime.connections.connection import HttpConnection
from loops import LOOPS, NewLoop

BODY = 64 * 2**20


class Counter:
    """Counts what comes."""

    def __init__(self) -> None:
        self.size = 0
        self.ended = asyncio.Event()

    def head(self, status: int, headers: dict[bytes, bytes]) -> None:
        pass

    def body(self, data: bytes) -> None:
        self.size += len(data)

    def end(self) -> None:
        self.ended.set()

    def lost(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_server_is_held_back(new_loop: NewLoop) -> None:
    """While nothing is read, it can send no more than the network's buffers take; then all comes."""
    sent = 0
    stuck = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY)
        while sent < BODY:
            writer.write(bytes(2**16))
            draining = asyncio.ensure_future(writer.drain())
            if not (await asyncio.wait({draining}, timeout=0.2))[0]:
                stuck.set()
            await draining
            sent += 2**16
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: HttpConnection(lambda free: None, lambda gone: None), *server.sockets[0].getsockname()
        )
        counter = Counter()
        connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", counter)
        while not counter.size:
            await asyncio.sleep(0.001)
        connection.hold(True)
        came = counter.size
        await asyncio.wait_for(stuck.wait(), 60)
        assert counter.size == came
        assert sent < BODY
        connection.hold(False)
        await asyncio.wait_for(counter.ended.wait(), 60)
        assert counter.size == BODY
        connection.close()
        server.close()
        await server.wait_closed()

    loop = new_loop()
    loop.run_until_complete(scenario())
    loop.close()
