"""A gateway's Socket.IO server, as a process: `python socketio_gateway.py async|threads REDIS_URL`.

`async` is an AsyncServer with an AsyncRedisManager under uvicorn, `threads` a Server with a RedisManager under
waitress. Browsers name their channels as they connect to one of the namespaces, and are put into the rooms of these
names, behind `channel:`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import socketio  # type: ignore[import-untyped]

NAMESPACES = ("/", "/chat")


class AsyncRooms(socketio.AsyncNamespace):  # type: ignore[misc]
    async def on_connect(self, sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for channel in auth["channels"]:
            await self.enter_room(sid, f"channel:{channel}")


class Rooms(socketio.Namespace):  # type: ignore[misc]
    def on_connect(self, sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for channel in auth["channels"]:
            self.enter_room(sid, f"channel:{channel}")


def main(kind: str, url: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    (serve_async if kind == "async" else serve_threads)(listener, url)


def say(listener: socket.socket) -> None:
    print(f"listening at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)


def serve_async(listener: socket.socket, url: str) -> None:
    import uvicorn

    manager = socketio.AsyncRedisManager(url)
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", client_manager=manager)
    for namespace in NAMESPACES:
        server.register_namespace(AsyncRooms(namespace))

    async def serve() -> None:
        app = socketio.ASGIApp(server)
        say(listener)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])

    asyncio.run(serve())


def serve_threads(listener: socket.socket, url: str) -> None:
    from waitress.server import create_server

    manager = socketio.RedisManager(url)
    server = socketio.Server(async_mode="threading", cors_allowed_origins="*", client_manager=manager)
    for namespace in NAMESPACES:
        server.register_namespace(Rooms(namespace))
    running = create_server(socketio.WSGIApp(server), sockets=[listener], threads=16)
    say(listener)
    running.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
