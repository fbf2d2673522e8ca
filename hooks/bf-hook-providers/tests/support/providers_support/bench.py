"""Engines by themselves, one step at a time, on a server that sends each piece by itself."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Sequence
from typing import Any

from bf_plugin import PluginContext, ProviderError, Usage
from bf_plugin.engines.port import Access, StepDone, StepRequest
from bf_plugin.items import Item, text_message
from providers_support.dialect import Dialect, Request
from providers_support.script import Answer

KEY = "sk-secret-of-the-caller-0123456789"


class Dribble:
    """Sends an answer in pieces, each of which arrives by itself: client and server share a loop and take turns."""

    def __init__(self) -> None:
        self.answer = Answer([])
        self.request: Request | None = None
        self.url = ""

    async def listen(self) -> asyncio.AbstractServer:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        path, _, query = first.split(" ")[1].partition("?")
        self.request, answer = Request("POST", path, query, headers, body), self.answer
        sent = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        writer.write(f"HTTP/1.1 {answer.status} Ok\r\n{sent}Transfer-Encoding: chunked\r\n\r\n".encode())
        for piece in answer.pieces:
            assert isinstance(piece, bytes)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            for _ in range(3):  # one turn for the piece to be seen, one to be read, one to be used
                await asyncio.sleep(0)
        if answer.complete:
            writer.write(b"0\r\n\r\n")
        return answer.complete


class Bench:
    """Asks an engine for one step at a time, on a loop of its own, and keeps what it hands on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Dribble) -> None:
        self.server = server
        self._loop = loop
        self._engines: dict[tuple[str, str], Any] = {}

    def engine(self, dialect: Dialect, **section: Any) -> Any:
        """Return an engine with these settings, pointed to the server."""
        known = (dialect.name, json.dumps(section))
        if known not in self._engines:
            create = importlib.import_module(f"bf_hook_providers.{dialect.name}").create_engine
            context = PluginContext(name=dialect.name, section=dialect.section(self.server.url, **section))
            self._engines[known] = create(context)
        return self._engines[known]

    def play(
        self, dialect: Dialect, answer: Answer, *items: Any, section: Any = None, key: str = KEY, **step: Any
    ) -> list[Any]:
        """Return the events of a step that is answered so; a ProviderError in the place where it was raised."""
        self.server.answer = answer
        history = [*items] or [text_message("user", "Hi")]
        request = new_step(**{"model": dialect.model, "new": history, **step})
        return self._loop.run_until_complete(self._play(self.engine(dialect, **(section or {})), request, key))

    def broken_off(self, dialect: Dialect, answer: Answer) -> Usage | None:
        """Return the usage after a stop, as soon as some text has come."""
        self.server.answer = answer
        request = new_step(model=dialect.model, new=[text_message("user", "Hi")])
        return self._loop.run_until_complete(self._break_off(self.engine(dialect), request))

    def held(self, dialect: Dialect, answer: Answer, seconds: float, **section: Any) -> tuple[int, list[Any]]:
        """Hold the stream after its first text; return how many events had come before it went on, and all."""
        self.server.answer = answer
        request = new_step(model=dialect.model, new=[text_message("user", "Hi")])
        return self._loop.run_until_complete(self._hold(self.engine(dialect, **section), request, seconds))

    def asked(self, dialect: Dialect, *items: Any, **step: Any) -> Any:
        """Return the body that a step is asked with."""
        self.server.request = None
        *_, last = self.play(dialect, dialect.answer("Ok"), *items, **step)
        assert isinstance(last, StepDone), last
        assert self.server.request is not None
        return self.server.request.body

    def close(self) -> None:
        for engine in self._engines.values():
            self._loop.run_until_complete(engine.aclose())

    async def _play(self, engine: Any, request: StepRequest, key: str) -> list[Any]:
        events: list[Any] = []
        try:
            stream = await engine.start(request, Access(api_key=key, request_id="request-1"))
        except ProviderError as error:
            return [error]
        try:
            await stream.read(events.extend)
        except ProviderError as error:
            events.append(error)
        finally:
            await stream.aclose()
        return events

    async def _hold(self, engine: Any, request: StepRequest, seconds: float) -> tuple[int, list[Any]]:
        stream = await engine.start(request, Access(api_key=KEY))
        events: list[Any] = []
        seen = asyncio.Event()
        reading = asyncio.create_task(stream.read(lambda new: (events.extend(new), seen.set())))
        await asyncio.wait_for(seen.wait(), 10)
        stream.hold(True)
        await asyncio.sleep(seconds)
        before = len(events)
        stream.hold(False)
        await asyncio.wait_for(reading, 10)
        await stream.aclose()
        return before, events

    async def _break_off(self, engine: Any, request: StepRequest) -> Usage | None:
        stream = await engine.start(request, Access(api_key=KEY))
        seen = asyncio.Event()
        reading = asyncio.create_task(stream.read(lambda events: seen.set()))
        await asyncio.wait_for(seen.wait(), 10)
        reading.cancel()
        await asyncio.wait([reading])
        await stream.aclose()
        usage: Usage | None = await engine.cancel(stream.handle, Access(api_key=KEY))
        return usage


def new_step(**fields: Any) -> StepRequest:
    async def history() -> Sequence[Item]:
        return ()

    empty: dict[str, Any] = {"instructions": None, "tools": (), "options": {}, "metadata": {}, "state": None}
    return StepRequest(**{"run_id": "run_1", "number": 1, "history": history, **empty, **fields})
