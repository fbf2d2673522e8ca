"""A FileMaker Server for tests, and an app's callback: real HTTP servers on 127.0.0.1.

```python
with FakeFileMaker({"find order": lambda parameter: '{"status": "shipped"}'}) as server:
    section = {"connections": {"sales": server.connection()}, "tools": {...}}
```

What the Data API does is after its guide (help.claris.com/en/data-api-guide): logging in and out, running a script
alone or with a search, metadata, error responses. Codes and texts are those of "FileMaker error codes"
(help.claris.com/en/pro-help/content/error-codes.html). 812 at a login is what servers do
(github.com/proofsh/fmdapi/issues/18), code 10 for a call without a token too (driftwoodinteractive/fmPDA). Where the
guide is silent it is guessed, and marked so.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from typing_extensions import Self

SESSION_SECONDS = 15 * 60

MESSAGES = {
    0: "OK",
    10: "Request validation failed: Parameter (Authorization) is required",
    104: "Script is missing",
    105: "Layout is missing",
    212: "Invalid user account and/or password; please try again",
    401: "No records match the request",
    802: "Unable to open file",
    812: "Exceeded host's capacity",
    952: "Invalid FileMaker Data API token (*)",
    960: "Parameter is invalid (*)",
}
_STATUS = {0: 200, 10: 400, 212: 401, 952: 401, 960: 400}
"""HTTP statuses by code; FileMaker's own errors come with 500."""

Fault = Literal["html", "not_found", "cut", "cut_body", "not_json", "drip", "large", "ends_sessions"]


@dataclass(frozen=True)
class Ended:
    """How a script ended: the result of its Exit Script, and the number of its last error."""

    result: str | None = None
    error: int = 0


@dataclass(frozen=True)
class Received:
    """A request as a server got it."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


Reply = tuple[int, dict[str, str], bytes]
_NOT_FOUND: Reply = (404, {"Content-Type": "text/html"}, b"<html>Not Found</html>")
Script = Callable[[str], "str | Ended | None"]


class FakeServer:
    """Serves what `reply` says, over TLS with a `certificate` (the file with it and its key)."""

    def __init__(self, *, certificate: str | None = None) -> None:
        self.requests: list[Received] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._certificate = certificate
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop; calls get no connection from now on."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The server's address."""
        start = "http://127.0.0.1" if self._certificate is None else "https://localhost"
        return f"{start}:{self._server.server_port}"

    def fault(self, kind: Fault, *, times: int = 1) -> None:
        """Go wrong at the next calls: those that run something, not logins."""
        with self._lock:
            self._faults += [kind] * times

    def reply(self, request: Received) -> Reply:
        """Return the answer to a request."""
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Be slow for so long, or until the server stops."""
        self._stopped.wait(seconds)

    def next_fault(self) -> Fault | None:
        """Return what goes wrong now."""
        with self._lock:
            return self._faults.pop(0) if self._faults else None


class FakeFileMaker(FakeServer):
    """A FileMaker Server with one database. `scripts` are functions of the parameter, run in the request's thread.

    A script returns its result as text, None for none, or `Ended` to end with an error. `clock` tells the time in
    seconds, for sessions that end after 15 minutes without a call. With more than `session_limit` sessions a login is
    refused. `most_at_once` is how many scripts ran at once, `shared` whether two calls ever shared a session.
    """

    def __init__(
        self,
        scripts: Mapping[str, Script],
        *,
        database: str = "Sales",
        account: str = "assistant",
        password: str = "open sesame",  # noqa: S107 - it opens nothing but this
        layouts: Mapping[str, list[dict[str, str]]] | None = None,
        session_limit: int = 100,
        clock: Callable[[], float] = time.monotonic,
        certificate: str | None = None,
    ) -> None:
        super().__init__(certificate=certificate)
        self.scripts = dict(scripts)
        self.layouts = dict(layouts if layouts is not None else {"API": [{"id": "1"}]})
        """Records by layout, each by field."""
        self.database = database
        self.account = account
        self.password = password
        self.session_limit = session_limit
        self.most_at_once = 0
        self.shared = False
        self._clock = clock
        self._sessions: dict[str, float] = {}
        self._busy: Counter[str] = Counter()

    def connection(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a connection to this server."""
        base = {"kind": "data_api", "url": self.url, "database": self.database}
        return {**base, "account": self.account, "password": self.password, **changes}

    @property
    def sessions(self) -> list[str]:
        """The tokens of the sessions that are open."""
        with self._lock:
            return list(self._open())

    def expire(self) -> None:
        """End all sessions, as 15 minutes without a call do, or a restart of the server."""
        with self._lock:
            self._sessions.clear()

    def reply(self, request: Received) -> Reply:
        """Return what the Data API answers."""
        parts = [unquote(part) for part in urlsplit(request.path).path.split("/")[1:]]
        if parts[:2] != ["fmi", "data"] or parts[2:3] not in (["v1"], ["v2"], ["vLatest"]) or len(parts) < 6:
            return _NOT_FOUND
        if request.method != "DELETE" and request.headers.get("Content-Type") != "application/json":
            return 415, {"Content-Type": "text/html"}, b"<html>Unsupported Media Type</html>"
        if parts[4] != self.database:
            return _answer(802)
        if parts[5] == "sessions":
            return self._log_in(request) if request.method == "POST" else self._log_out(parts[6:])
        return self._call(request, parts[5:])

    def _log_in(self, request: Received) -> Reply:
        expected = base64.b64encode(f"{self.account}:{self.password}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            return _answer(212)
        if request.json() != {}:
            return _answer(960)
        with self._lock:
            if len(self._open()) >= self.session_limit:
                return _answer(812)
            token = secrets.token_hex(26)
            self._sessions[token] = self._clock()
        status, headers, body = _answer(0, token=token)
        return status, {**headers, "X-FM-Data-Access-Token": token}, body

    def _log_out(self, rest: list[str]) -> Reply:
        with self._lock:
            return _answer(0) if rest and self._sessions.pop(rest[0], None) is not None else _answer(952)

    def _call(self, request: Received, rest: list[str]) -> Reply:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer":
            return _answer(10)
        with self._lock:
            if token not in self._open():
                return _answer(952)
            self._sessions[token] = self._clock()
        with self._counted(token):
            return self._in_session(request, rest)

    def _in_session(self, request: Received, rest: list[str]) -> Reply:
        if rest in (["scripts"], ["layouts"]) and request.method == "GET":
            names = self.scripts if rest == ["scripts"] else self.layouts
            return _answer(0, **{rest[0]: [{"name": name} for name in names]})
        if len(rest) < 3 or rest[0] != "layouts":
            return _NOT_FOUND
        if rest[1] not in self.layouts:
            return _answer(105)
        if rest[2] == "script" and len(rest) == 4:
            if request.method != "GET":
                return 405, {"Content-Type": "text/html"}, b"<html>Method Not Allowed</html>"
            parameters = parse_qs(urlsplit(request.path).query, keep_blank_values=True, strict_parsing=True)
            return self._run(rest[3], parameters.get("script.param", [""])[0])
        if rest[2:] == ["_find"] and request.method == "POST":
            return self._find(rest[1], request.json())
        return _NOT_FOUND

    def _find(self, layout: str, body: Mapping[str, Any]) -> Reply:
        """Search by `*` (anything) or the whole value, then run the script; without a record none is run (a guess)."""
        found = [record for record in self.layouts[layout] if any(_matches(record, query) for query in body["query"])]
        if not found:
            return _answer(401)
        data = [{"fieldData": record, "portalData": {}, "recordId": "1", "modId": "0"} for record in found]
        return self._run(body["script"], body.get("script.param", ""), data=data[: int(body.get("limit", "100"))])

    def _run(self, name: str, parameter: str, **more: Any) -> Reply:
        if name not in self.scripts:
            return _answer(104)
        ended = self.scripts[name](parameter)
        if not isinstance(ended, Ended):
            ended = Ended(ended)
        result = {} if ended.result is None else {"scriptResult": ended.result}
        return _answer(0, scriptError=str(ended.error), **result, **more)

    def next_fault(self) -> Fault | None:
        """Return what goes wrong now; sessions that end do so here, for the call to find out."""
        kind = super().next_fault()
        if kind == "ends_sessions":
            self.expire()
            return None
        return kind

    def _open(self) -> dict[str, float]:
        ended = self._clock() - SESSION_SECONDS
        self._sessions = {token: used for token, used in self._sessions.items() if used > ended}
        return self._sessions

    @contextlib.contextmanager
    def _counted(self, token: str) -> Iterator[None]:
        with self._lock:
            self._busy[token] += 1
            self.shared = self.shared or self._busy[token] > 1
            self.most_at_once = max(self.most_at_once, sum(self._busy.values()))
        try:
            yield
        finally:
            with self._lock:
                self._busy[token] -= 1


class FakeCallback(FakeServer):
    """An app's callback: POSTs to `/api/...` with the key are answered by `hook`, a function of the body's value.

    The hook returns what BetterForms' does: text, a value to be sent as JSON, or a `(status, text or value)`. What the
    endpoint does with a wrong key is up to the hook in FileMaker; here it is a 401.
    """

    def __init__(self, hook: Callable[[Any], Any], *, key: str = "callback-key-1", header: str = "X-Api-Key") -> None:
        super().__init__()
        self.key = key
        self._header = header
        self._hook = hook

    def connection(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a connection to this endpoint."""
        return {"kind": "callback", "url": f"{self.url}/api/tools", "key": self.key, **changes}

    def reply(self, request: Received) -> Reply:
        """Return what the hook says."""
        if not request.path.startswith("/api") or request.method != "POST":
            return _NOT_FOUND
        if request.headers.get(self._header) != self.key:
            return 401, {"Content-Type": "application/json"}, b'{"message": "wrong key"}'
        said = self._hook(request.json())
        status, said = said if isinstance(said, tuple) else (200, said)
        kind = "text/plain" if isinstance(said, str) else "application/json"
        return status, {"Content-Type": kind}, (said if isinstance(said, str) else json.dumps(said)).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away, or refused the certificate."""


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body go out one after the other
        timeout = 30

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Log nothing."""

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            received = Received(self.command, self.path, dict(self.headers.items()), body)
            server.requests.append(received)
            fault = None if "/sessions" in self.path else server.next_fault()
            status, headers, content = _broken(fault) or server.reply(received)
            if fault == "cut":
                self._cut()
                return
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if fault == "drip":
                self._drip(content)
            elif fault == "cut_body":
                self.wfile.write(content[:5])
                self._cut()
            else:
                self.wfile.write(content)

        def _cut(self) -> None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        def _drip(self, content: bytes) -> None:
            """Send a byte now and then, so that each read is in time and the whole never is."""
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                server.pause(0.05)

        do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do  # noqa: N815 - the names of the base class

    return Handler


def _broken(fault: Fault | None) -> Reply | None:
    """Return what is answered instead; the other faults are about how an answer is sent, or not."""
    if fault == "html":
        return 503, {"Content-Type": "text/html"}, b"<html>Service Unavailable</html>"
    if fault == "not_found":
        return _NOT_FOUND
    if fault == "large":
        return 200, {"Content-Type": "application/json"}, b'{"response": "' + b"x" * 1_000_000 + b'"}'
    if fault == "not_json":
        return 200, {"Content-Type": "application/json"}, b'{"response": {'
    return None


def _answer(code: int, **response: Any) -> Reply:
    body = {"response": response, "messages": [{"code": str(code), "message": MESSAGES[code]}]}
    return _STATUS.get(code, 500), {"Content-Type": "application/json; charset=utf-8"}, json.dumps(body).encode()


def _matches(record: Mapping[str, str], query: Mapping[str, str]) -> bool:
    return all(record.get(name) and value in ("*", record[name]) for name, value in query.items())
