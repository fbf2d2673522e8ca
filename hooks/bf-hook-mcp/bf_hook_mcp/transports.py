"""The ways to a server, as the SDK's client takes them: its own two, watched.

The SDK tells calls under way that a connection ended, and nobody else; a `Watched` stream tells us.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TextIO

import httpx2
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from bf_hook_mcp.settings import ServerSettings

_LONGEST_LINE = 4096

Streams = tuple[Any, Any]
"""What the SDK's client reads from and writes to."""


class Trouble:
    """What a transport knows about why things fail: the server's last lines on stderr, the status of a refusal."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self.lines: list[str] = []
        self.status: int | None = None
        self.session_gone = False
        """The server does not know the session (any more), and has not looked at the request: MCP's status 404."""

    def line(self, line: str) -> None:
        """Keep a line that the server wrote to stderr."""
        self.lines = [*self.lines[-4:], line]
        self._heard(line)

    async def response(self, response: httpx2.Response) -> None:
        """Keep the status of the last request, if it was refused. Only POSTs: servers need not have the rest."""
        if response.request.method == "POST":
            self.status = response.status_code if response.status_code >= 400 else None
            self.session_gone |= self.status == 404 and "mcp-session-id" in response.request.headers

    def __str__(self) -> str:
        status = "" if self.status is None else f" (the server answered with HTTP status {self.status})"
        lines = f"; its last words: {' | '.join(self.lines)}" if self.lines else ""
        return f"{status}{lines}"


@asynccontextmanager
async def connection(settings: ServerSettings, trouble: Trouble, ended: Callable[[], None]) -> AsyncIterator[Streams]:
    """Open the way to a server. `ended` is called on the loop when nothing more comes from it."""
    way = _stdio(settings, trouble) if settings.url is None else _http(settings, settings.url, trouble)
    async with way as (read, write):
        yield Watched(read, ended), write


@asynccontextmanager
async def _stdio(settings: ServerSettings, trouble: Trouble) -> AsyncIterator[Streams]:
    parameters = StdioServerParameters(
        command=settings.command or "", args=settings.args, env=settings.filled(settings.env), cwd=settings.cwd
    )
    async with _lines(trouble.line) as errors, stdio_client(parameters, errlog=errors) as streams:
        yield streams


@asynccontextmanager
async def _http(settings: ServerSettings, url: str, trouble: Trouble) -> AsyncIterator[Streams]:
    certificates = await asyncio.to_thread(httpx2.create_ssl_context)  # reading them takes a while
    client = httpx2.AsyncClient(
        verify=certificates,
        headers=settings.filled(settings.headers),
        # Reading has no limit of its own: a call has the run's, and one that passed here would end the others' too.
        timeout=httpx2.Timeout(settings.connect_timeout, read=None, pool=None),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=10),
        event_hooks={"response": [trouble.response]},
    )
    async with client, streamable_http_client(url, http_client=client) as streams:
        yield streams


@asynccontextmanager
async def _lines(heard: Callable[[str], None]) -> AsyncIterator[TextIO]:
    """Yield a file for a process to write to; what it writes is heard line by line."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        pipe = os.fdopen(reader, "rb", buffering=0)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: _Lines(heard), pipe)
        try:
            yield file
        finally:
            transport.close()


class _Lines(asyncio.Protocol):
    """Cuts what comes into lines; what is longer than a line should be is let go."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self._heard = heard
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:_LONGEST_LINE]
        for line in lines:
            if text := line[:_LONGEST_LINE].decode("utf-8", "replace").strip():
                self._heard(text)


class Watched:
    """A stream of messages that tells when it is left, which the SDK does as soon as nothing more can come."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Watched:
        return self

    async def __anext__(self) -> Any:
        return await self._stream.__anext__()

    async def __aenter__(self) -> Watched:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended()
        await self._stream.__aexit__(kind, error, trace)
