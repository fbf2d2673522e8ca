"""Plain GETs on kept-alive connections, as fast as they are answered: what a host app behind the plugin serves."""

from __future__ import annotations

import selectors
import socket
import time
from typing import Any

_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CONNECTIONS = 8


class Load:
    """Connections to one server, which ask nothing between two calls of `press`."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]

    def __enter__(self) -> Load:
        """Return this load."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Close the connections."""
        for connection in self._sockets:
            connection.close()

    def press(self, seconds: float) -> int:
        """Keep a request under way on each connection; return how many were answered, the last ones waited for."""
        until = time.monotonic() + seconds
        answered = 0
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                selector.register(connection, selectors.EVENT_READ, connection)
                connection.send(_REQUEST)
            while selector.get_map():
                for key, _ in selector.select():
                    connection = key.data
                    if not connection.recv(65536):
                        raise RuntimeError("the server closed a connection that was to be kept")
                    answered += 1
                    if time.monotonic() < until:
                        connection.send(_REQUEST)
                    else:
                        selector.unregister(connection)
        return answered
