"""Plain GETs on kept-alive connections, as many as are answered: what a host app behind the plugin still serves."""

from __future__ import annotations

import selectors
import socket
import time

_REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_CONNECTIONS = 8


def requests_per_second(port: int, seconds: float) -> float:
    """Return how many requests a second are answered."""
    with selectors.DefaultSelector() as selector:
        sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(_CONNECTIONS)]
        for connection in sockets:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ, connection)
            connection.send(_REQUEST)
        answered, began = 0, time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            for key, _ in selector.select(1.0):
                connection = key.data
                if connection.recv(65536):
                    answered += 1
                    connection.send(_REQUEST)
        for connection in sockets:
            connection.close()
    return answered / elapsed
