"""Ways through a forward proxy: a tunnel for TLS (CONNECT, RFC 9110, 9.3.6), else requests that name the whole URL."""

from __future__ import annotations

import asyncio
import dataclasses
import ssl
from collections.abc import Callable
from typing import Any

from bf_plugin.runtime.connections.connection import HttpConnection
from bf_plugin.runtime.connections.endpoint import Endpoint, endpoint_of
from bf_plugin.runtime.connections.pool import Connect, direct


def forwarded(proxy: str, endpoint: Endpoint) -> tuple[Endpoint, Connect]:
    """Return the endpoint as a proxy is asked for it, and what connects to that proxy.

    Raises ValueError for a proxy's URL that is none.
    """
    at = _proxy(proxy)
    port = "" if endpoint.port == 80 else f":{endpoint.port}"
    whole = f"http://{_named(endpoint.host)}{port}{endpoint.path}"
    asked = dataclasses.replace(endpoint, path=whole, common=endpoint.common + _login(at))
    return asked, direct(at.host, at.port, ssl.create_default_context() if at.secure else None)


def tunnel(proxy: str, host: str, port: int, tls: ssl.SSLContext) -> Connect:
    """Return what connects to a host with TLS, through a proxy. Raises ValueError for a proxy's URL that is none."""
    at = _proxy(proxy)
    there = f"{_named(host)}:{port}".encode()
    request = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (there, there, _login(at))
    where: dict[str, Any] = {"ssl": ssl.create_default_context()} if at.secure else {}

    async def connect(make: Callable[[], HttpConnection]) -> HttpConnection:
        loop = asyncio.get_running_loop()
        transport, asking = await loop.create_connection(_Asking, at.host, at.port, **where)
        try:
            await asking.open(request)
            connection = make()
            secured = await loop.start_tls(transport, connection, tls, server_hostname=host)
        except BaseException:
            transport.abort()
            raise
        connection.connection_made(secured)
        return connection

    return connect


class _Asking(asyncio.Protocol):
    """The connection until the proxy has opened the tunnel."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._answer = b""
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, request: bytes) -> None:
        """Ask the proxy. Raises OSError when it does not want."""
        self._transport.write(request)
        await self._opened

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the proxy's answer; nothing follows it until we have written."""
        self._answer += data
        if b"\r\n\r\n" in self._answer and not self._opened.done():
            if self._answer.split(b" ", 2)[1:2] == [b"200"]:
                self._opened.set_result(None)
            else:
                self._opened.set_exception(ConnectionRefusedError("the proxy refused the tunnel"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        if not self._opened.done():
            self._opened.set_exception(ConnectionResetError("the proxy closed the connection"))


def _proxy(url: str) -> Endpoint:
    return endpoint_of(url if "://" in url else f"http://{url}")


def _login(proxy: Endpoint) -> bytes:
    lines = [line for line in proxy.common.splitlines(keepends=True) if line.startswith(b"Authorization: ")]
    return b"".join(b"Proxy-" + line for line in lines)


def _named(host: str) -> str:
    return f"[{host}]" if ":" in host else host
