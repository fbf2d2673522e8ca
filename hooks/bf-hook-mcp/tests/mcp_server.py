"""An MCP server for the tests, made with the SDK: real processes, real pipes and sockets, but quick to start.

Importing the SDK takes seconds, so it is done once: `python mcp_server.py SOCKET` waits there, imported, and forks a
server for each launcher that comes. A launcher, `mcp_launcher.py SOCKET FOLDER [OPTIONS]`, is what a gateway runs; it
hands over its arguments, environment and standard streams, and ends when its server does.

Files in FOLDER are what a server is told and what it tells: `starts` has the pid of each; `tools` the names of further
tools, looked for at each listing; `waiting` is there while `wait` waits, which `go` ends; `cancelled` says that a wait
was cancelled, `calls` has a line for each call, `listings` for each listing, which waits while there is a `busy`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import METHOD_NOT_FOUND, ErrorData, JSONRPCError, JSONRPCRequest, ToolAnnotations

options = argparse.ArgumentParser()
options.add_argument("folder", type=Path)
options.add_argument("--http", type=int, help="serve streamable HTTP on this port, and say `listening on PORT`")
options.add_argument("--legacy", action="store_true", help="speak the protocol before 2026-07-28 only")
options.add_argument("--ancient", action="store_true", help="and end when asked for another, as mcp 1.9 does")
options.add_argument("--token", help="what Authorization must be")
options.add_argument("--mute", action="store_true", help="never answer anything")
options.add_argument("--fail", help="say this on stderr and end, until the file `healthy` is there")


def main(arguments: list[str]) -> None:
    asked = options.parse_args(arguments)
    note(asked.folder, "starts", str(os.getpid()))
    if asked.fail and not (asked.folder / "healthy").exists():
        sys.exit(asked.fail)
    if asked.mute:
        sys.stdin.read()
        return
    server = made(asked.folder, legacy=asked.legacy or asked.ancient)
    if asked.http is not None:
        serve(server, asked)
    elif asked.legacy or asked.ancient:
        anyio.run(legacy_stdio, server, asked.ancient)
    else:
        server.run("stdio")


def note(folder: Path, name: str, text: str) -> None:
    with (folder / name).open("a") as file:
        file.write(f"{text}\n")


def made(folder: Path, *, legacy: bool) -> MCPServer:
    server = MCPServer("demo", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        note(folder, "calls", "add")
        return a + b

    @server.tool()
    async def wait() -> str:
        """Wait for a file."""
        note(folder, "calls", "wait")
        (folder / "waiting").touch()
        try:
            while not (folder / "go").exists():
                await anyio.sleep(0.01)
        except anyio.get_cancelled_exc_class():
            note(folder, "cancelled", "wait")
            raise
        return "waited"

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True))
    async def wait_again() -> str:
        """Wait for a file; may be called twice."""
        waited: str = await wait()
        return waited

    @server.tool()
    async def change(name: str, ctx: Context[Any, Any]) -> str:
        """Add a tool, and say so to those who listen."""
        server.add_tool(lambda: f"this is {name}", name=name, description="New.")
        await (ctx.session.send_tool_list_changed() if legacy else ctx.notify_tools_changed())
        return "changed"

    @server.tool(name="files.read/all")
    def read_all() -> str:
        """Have a name that no provider takes."""
        return "read"

    @server.tool()
    def secret() -> str:
        """Tell what should not be told."""
        return f"the token is {os.environ.get('DEMO_TOKEN')}"

    @server.tool()
    def refuse() -> str:
        """Fail."""
        raise ToolError("there is no such thing")

    @server.tool()
    def crash() -> str:
        """Fail as JSON-RPC does."""
        raise MCPError(-32000, "the database is away")

    @server.tool(structured_output=False)
    def picture() -> list[Any]:
        """Return a text and an image."""
        return ["here it is", Image(data=b"\0" * 3000, format="png")]

    @server.tool()
    def long() -> str:
        """Say more than is good."""
        return "x" * 1000

    async def grow(context: Any, call_next: Any) -> Any:
        """Have the further tools, without a word to anybody; list none while there is something else to do."""
        if context.method == "tools/list":
            note(folder, "listings", "tools")
            while (folder / "busy").exists():
                await anyio.sleep(0.01)
            for name in (folder / "tools").read_text().split() if (folder / "tools").exists() else ():
                server.add_tool(lambda: "here", name=name)
        return await call_next(context)

    server.middleware.append(grow)
    if legacy:
        server.middleware.append(refuse_discovery)
    return server


async def refuse_discovery(context: Any, call_next: Any) -> Any:
    """Answer as servers do that know nothing of the protocol since 2026-07-28."""
    if context.method == "server/discover":
        raise MCPError(METHOD_NOT_FOUND, "Method not found")
    return await call_next(context)


async def legacy_stdio(server: MCPServer, ancient: bool) -> None:
    """Serve over stdio. Here the SDK's server decides by the first request, so discovery must not reach it."""
    core = server._lowlevel_server
    async with stdio_server() as (read, write), undiscovered(read, write, ancient) as rest:
        await core.run(rest, write, core.create_initialization_options())


@asynccontextmanager
async def undiscovered(read: Any, write: Any, ancient: bool) -> Any:
    send, receive = anyio.create_memory_object_stream[Any](0)

    async def sift() -> None:
        async with send:
            async for item in read:
                message = getattr(item, "message", None)
                if isinstance(message, JSONRPCRequest) and message.method == "server/discover":
                    if ancient:
                        os._exit(1)
                    error = ErrorData(code=METHOD_NOT_FOUND, message="Method not found")
                    await write.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=message.id, error=error)))
                else:
                    await send.send(item)

    async with anyio.create_task_group() as group:
        group.start_soon(sift)
        yield receive
        group.cancel_scope.cancel()


def serve(server: MCPServer, asked: argparse.Namespace) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", asked.http))
    listening.listen()
    print(f"listening on {listening.getsockname()[1]}", flush=True)
    app = guarded(server.streamable_http_app(), asked.token)
    uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none")).run(sockets=[listening])


def guarded(app: Any, token: str | None) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"").decode()
        if scope["type"] == "http" and token and given != token:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})
        else:
            await app(scope, receive, send)

    return answer


def wait_for_launchers(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody else buries the servers
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            launcher, _ = listening.accept()
            message, files, _, _ = socket.recv_fds(launcher, 1 << 20, 3)
            if os.fork() == 0:
                become(json.loads(message), files)
            launcher.close()  # the server has it: its end is the launcher's
            for file in files:
                os.close(file)


def become(message: dict[str, Any], files: list[int]) -> None:
    """Serve, as the process that the launcher was started to be."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(message["environ"])
        main(message["arguments"])
        code = 0
    except SystemExit as error:
        print(error.code, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    wait_for_launchers(sys.argv[1])
