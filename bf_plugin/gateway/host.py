"""Calling the host app in-process, as a WSGI server would: to ask for keys and to deliver messages.

Request threads and the event loop ask; threads of our own do the calling, so that a host that hangs costs neither. A
call has a deadline. A call that outlives it cannot be ended, only counted (`stuck`, which fails readiness).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bf_plugin.errors import BFError
from bf_plugin.runtime.paths import PREFIX, TOOL_RESPONSE
from bf_plugin.runtime.workers import Workers

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

INNER = "bf_plugin.inner"
"""Key in the environ of our calls of the host: the middleware answers no path of ours where it finds it."""

_BODY_LIMIT = 4 * 1024 * 1024
# What URLs are built from and proxies are trusted by. Never cookies or authorization: the call is made for an app, by
# its key, not for a logged-in person.
_KEPT = (
    "HTTP_HOST",
    "HTTP_FORWARDED",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_PROTO",
    "REMOTE_ADDR",
    "SCRIPT_NAME",
    "SERVER_NAME",
    "SERVER_PORT",
    "wsgi.multiprocess",
    "wsgi.multithread",
    "wsgi.url_scheme",
)


class HostFailed(BFError):
    """The host app gave no answer: it raised, broke WSGI's protocol, or took too long. Holds nothing of the request."""


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """What the host app answered; header names are in lower case, `body` is cut off at 4 MiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def host_environ(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a later call of the host needs of a request's environ, JSON-able, for the journal."""
    return {key: environ[key] for key in _KEPT if isinstance(environ.get(key), (str, bool))}


class HostCaller:
    """Calls `host_app` in `threads` threads of its own.

    `deadline` is in seconds, for all of a call: the wait for a thread, the host's work, the reading of its answer. A
    host whose server is single-threaded (`wsgi.multithread` is false at the first call) gets one thread.
    """

    def __init__(self, host_app: WSGIApplication, *, threads: int = 4, deadline: float = 5.0) -> None:
        self._host_app = host_app
        self._threads = threads
        self._deadline = deadline
        self._lock = threading.Lock()  # guards the creation of the workers
        self._workers: Workers | None = None

    @property
    def stuck(self) -> int:
        """How many calls outlived their deadline and have not come back."""
        return self._workers.lost if self._workers else 0

    def call(self, path: str, body: bytes, environ: Mapping[str, Any]) -> HostAnswer:
        """POST the JSON text `body` to `path`, with the host, scheme and prefix of `environ`, and wait for the answer.

        Raises HostFailed where there is none within the deadline.
        """
        workers = self._pool(environ)
        future = self._submit(workers, path, body, environ)
        try:
            return future.result(self._deadline)
        except concurrent.futures.TimeoutError:
            raise self._late() from None
        except concurrent.futures.CancelledError:
            raise _closing() from None
        finally:
            if not future.done():
                workers.abandon(future)

    async def call_async(self, path: str, body: bytes, environ: Mapping[str, Any]) -> HostAnswer:
        """Do the same as `call` without blocking the event loop."""
        workers = self._pool(environ)
        future = self._submit(workers, path, body, environ)
        waiter = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiter}, timeout=self._deadline)
            if not waiter.done():
                raise self._late()
            if waiter.cancelled():
                raise _closing()
            return waiter.result()
        finally:
            if not waiter.done():
                workers.abandon(future)
                waiter.cancel()

    def close(self) -> None:
        """Make no more calls. Waits for none that is under way."""
        with self._lock:
            if self._workers is not None:
                self._workers.close()

    def _submit(
        self, workers: Workers, path: str, body: bytes, environ: Mapping[str, Any]
    ) -> concurrent.futures.Future[HostAnswer]:
        if path.startswith((PREFIX, TOOL_RESPONSE)):
            raise ValueError(f"{path} is served by the plugin itself")
        exchange = _Exchange(_environ(path, body, environ), time.monotonic() + self._deadline)
        try:
            return workers.submit(exchange.run, self._host_app)
        except RuntimeError:
            raise _closing() from None

    def _pool(self, environ: Mapping[str, Any]) -> Workers:
        with self._lock:
            if self._workers is None:
                alone = environ.get("wsgi.multithread") is False
                threads = 1 if alone else self._threads
                # Replacing a stuck thread of a single-threaded host would call that host twice at once.
                self._workers = Workers("bf-host", limit=threads, lost_limit=0 if alone else threads)
            return self._workers

    def _late(self) -> HostFailed:
        return HostFailed(f"the host app gave no answer within {self._deadline:g} s")


def _closing() -> HostFailed:
    return HostFailed("the host app is not called any more: the plugin is closing")


@dataclass(slots=True)
class _Exchange:
    """One request and its answer, from the server's side of PEP 3333. Nobody waits past `deadline` (monotonic)."""

    environ: WSGIEnvironment
    deadline: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    def run(self, host_app: WSGIApplication) -> HostAnswer:
        """Call the app and read its answer. Raises HostFailed that says where the host went wrong, without values."""
        try:
            self._read(host_app(self.environ, self._start_response))
        except HostFailed:
            raise
        except BaseException as error:
            # The error's text may quote the request, key included; the place it was raised at does not.
            raise HostFailed(f"the host app raised {type(error).__name__} {_place(error)}") from None
        if self.status is None:
            raise HostFailed("the host app did not call start_response")
        return HostAnswer(self.status, self.headers, b"".join(self.chunks))

    def _read(self, result: Iterable[bytes]) -> None:
        try:
            size = 0
            for chunk in result:
                self.chunks.append(chunk)
                size += len(chunk)
                if size > _BODY_LIMIT or time.monotonic() > self.deadline:
                    break
        finally:
            if (close := getattr(result, "close", None)) is not None:
                close()

    def _start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None = None,
        /,
    ) -> Callable[[bytes], object]:
        if exc_info is None and self.status is not None:
            raise HostFailed("the host app called start_response twice")
        if exc_info is not None and exc_info[1] is not None and any(self.chunks):
            raise exc_info[1]  # PEP 3333: too late for an error page, part of the body is out
        self.status = int(status[:3])
        self.headers = {name.lower(): value for name, value in headers}
        return self.chunks.append


def _environ(path: str, body: bytes, environ: Mapping[str, Any]) -> WSGIEnvironment:
    return {
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.multiprocess": True,
        "wsgi.multithread": True,
        "wsgi.url_scheme": "http",
        **host_environ(environ),
        "SCRIPT_NAME": str(environ.get("SCRIPT_NAME", "")).rstrip("/"),
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_ACCEPT": "application/json",
        "HTTP_USER_AGENT": "bf_plugin",
        "wsgi.version": (1, 0),
        "wsgi.run_once": False,
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        INNER: True,
    }


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {frame.name} ({frame.filename}:{frame.lineno})"
