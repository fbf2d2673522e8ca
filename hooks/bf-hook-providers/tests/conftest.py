"""Servers that speak the providers' protocols: one that says exactly what a test writes, and an independent one.

`wire` sends bytes. What the dialects below make of a script are the streams of the providers' documentation, read in
November 2026 through their SDKs, whose types name the same fields:

* Anthropic, "Streaming messages" and "Errors": `message_start`, `content_block_*`, `message_delta`, `message_stop`.
* Gemini API, "models.streamGenerateContent" with `alt=sse`, and "Thought signatures".
* OpenAI API reference, "Create chat completion", "The chat completion chunk object".

`aimock` is `@copilotkit/aimock` from npm: made by others, for others, and compared by them with the real APIs.
"""

from __future__ import annotations

import json
import re
import select
import shutil
import socket
import subprocess
import tarfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

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

    def wait_reached(self) -> None:
        assert self.reached.wait(10), "nobody came here"

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
    return f"{head}data: {json.dumps(data)}\n\n".encode()


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
        return sse(body)

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
    """Answers requests with what was scripted, in order. `closed` counts connections that clients broke off."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.closed = 0
        self._answers: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def script(self, *answers: Answer) -> None:
        self._answers.extend(answers)

    def wait_until(self, condition: Any, timeout: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, timeout), "what was waited for did not happen"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        assert not self._answers, f"{len(self._answers)} answers were not asked for"

    def _handler(wire) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(self.rfile.read(length) or b"null")
                with wire._changed:
                    wire.requests.append(Request("POST", path, query, headers, body))
                    answer = wire._answers.popleft() if wire._answers else Answer([b"nothing scripted"], 500)
                    wire._changed.notify_all()
                try:
                    self._send(answer)
                except OSError:
                    wire._note_closed()

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
                        raise ConnectionError("the client is gone")

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    def _note_closed(self) -> None:
        with self._changed:
            self.closed += 1
            self._changed.notify_all()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server that says what it is told to."""
    server = Wire()
    yield server
    server.stop()


@pytest.fixture
def new_call() -> type[Call]:
    """A call, for scripts: tests cannot import what is beside them."""
    return Call


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
    (folder / "fixtures").mkdir()
    cli = folder / "package" / "dist" / "cli.js"
    options = ["--port", "0", "--strict", "--log-level", "info", "--fixtures", str(folder / "fixtures")]
    process = subprocess.Popen([node, str(cli), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout)
    url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
    drain = threading.Thread(target=lambda: deque(lines, maxlen=0), daemon=True)
    drain.start()
    yield AiMock(url)
    process.terminate()
    process.wait(10)
    drain.join(10)
    process.stdout.close()


@pytest.fixture
def aimock(aimock_server: AiMock) -> AiMock:
    """The independent server, with nothing to say yet."""
    aimock_server.reset()
    return aimock_server
