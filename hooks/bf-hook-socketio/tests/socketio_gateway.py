"""A gateway's Socket.IO server, as a process: `python socketio_gateway.py async|threads REDIS_URL [NAMESPACE]`.

`async` is an AsyncServer with an AsyncRedisManager under uvicorn, `threads` a Server with a RedisManager under
waitress. Browsers name their channels as they connect, and are put into the rooms of these names, behind `channel:`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

import socketio


def main(kind: str, url: str, namespace: str = "/") -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    (serve_async if kind == "async" else serve_threads)(listener, url, namespace)


def say(listener: socket.socket) -> None:
    print(f"listening at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)


def serve_async(listener: socket.socket, url: str, namespace: str) -> None:
    import uvicorn

    manager = socketio.AsyncRedisManager(url)
    server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", client_manager=manager)

    @server.on("connect", namespace=namespace)
    async def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for channel in auth["channels"]:
            await server.enter_room(sid, f"channel:{channel}", namespace=namespace)

    async def serve() -> None:
        app = socketio.ASGIApp(server)
        say(listener)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])

    asyncio.run(serve())


def serve_threads(listener: socket.socket, url: str, namespace: str) -> None:
    from waitress.server import create_server

    manager = socketio.RedisManager(url)
    server = socketio.Server(async_mode="threading", cors_allowed_origins="*", client_manager=manager)

    @server.on("connect", namespace=namespace)
    def connect(sid: str, environ: dict[str, Any], auth: dict[str, Any]) -> None:
        for channel in auth["channels"]:
            server.enter_room(sid, f"channel:{channel}", namespace=namespace)

    running = create_server(socketio.WSGIApp(server), sockets=[listener], threads=16)
    say(listener)
    running.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
