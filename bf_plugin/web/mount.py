"""`mount`: our paths go to the plugin, every other request to the host app, untouched."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bf_plugin.errors import BFError, ConfigurationError
from bf_plugin.gateway.host import INNER
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.paths import AFTER, PREFIX, TOOL_RESPONSE
from bf_plugin.settings import Settings, load_settings
from bf_plugin.web.refusal import Environ, StartResponse, refuse
from bf_plugin.web.shared import answered_call

if TYPE_CHECKING:
    from bf_plugin.engines.port import Engine
    from bf_plugin.web.assembly import Service

_RETRY_START = 5.0
"""Seconds after a failed start before the next request tries again."""


def mount(
    host_app: Any, *, name: str | None = None, settings: Settings | None = None, plugins: Iterable[object] = ()
) -> Application:
    """Return `host_app` with the assistants endpoint in front of it, as a WSGI app.

    `name` keeps deployments of one user apart (each has its own default database), `settings` default to the
    environment, `plugins` are hook objects beside the installed ones. Nothing starts before the first request.

    Raises ConfigurationError for settings that cannot work.
    """
    return Application(host_app, name=name, settings=settings or load_settings(), plugins=tuple(plugins))


class Application:
    """The mounted plugin. `start` and `close` may be called by hand; a forked child starts afresh.

    `host_app`, `name`, `settings` and `plugins` are what it was mounted with, for others to read.
    """

    def __init__(
        self,
        host_app: Any,
        *,
        name: str | None,
        settings: Settings,
        plugins: tuple[object, ...],
        engines: Mapping[str, Engine] | None = None,
    ) -> None:
        self.host_app = host_app
        self.name = name
        self.settings = settings
        self.plugins = plugins
        self._engines = engines
        # One lock for each process: one request starts the service, and those beside it wait. A lock that was held
        # when the process forked stays locked in the child.
        self._locks: dict[int, threading.Lock] = {}
        self._service: Service | None = None
        self._left: list[object] = []
        self._pid = self._waking = 0
        self._failure: tuple[float, BFError] | None = None
        self._log = get_logger(__name__)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request, as WSGI has it (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path == PREFIX or path.startswith(PREFIX + "/"):
            return self._ours(self._running(), environ, start_response)
        if path == TOOL_RESPONSE:
            service = self._running()
            if service is not None and self._answers_our_call(service, environ):
                return self._ours(service, environ, start_response)
        elif not environ.get(INNER):  # but not for a call of our own: `doctor` makes some, and must not drive runs
            self._wake()
        response: Iterable[bytes] = self.host_app(environ, start_response)
        return response

    def start(self) -> None:
        """Start now instead of with the first request: for gunicorn's `post_worker_init` and the like.

        Returns when everything is loaded, so the process may fork. Raises BFError that says why it cannot start.
        """
        service = self._running()
        if service is not None:
            service.wait_until_warm()
        elif self._failure is not None:
            raise self._failure[1]

    def close(self) -> None:
        """Hand runs over and stop all threads; the next request would start anew. The exit calls it by itself."""
        with self._lock():
            service, self._service = self._service, None
            mine = self._pid == os.getpid()
        if service is not None and mine:
            atexit.unregister(self.close)
            service.close()

    def _running(self) -> Service | None:
        """Return the service of this process, starting it where needed; None if it cannot start."""
        if self._service is not None and self._pid == os.getpid():
            return self._service
        with self._lock():
            if self._pid != os.getpid():
                # After a fork, the parent's threads and locks are not here. We neither close its service nor free it:
                # that would close the parent's SQLite files (sqlite.org, "How To Corrupt", 2.6).
                self._left.append(self._service)
                self._service, self._failure, self._pid = None, None, os.getpid()
            if self._service is None and not self._failed_lately():
                self._start()
            return self._service

    def _wake(self) -> None:
        """Start the service in a thread of its own, so that no request of the host waits for it."""
        process = os.getpid()
        if (self._service is not None and self._pid == process) or self._waking == process or self._failed_lately():
            return
        self._waking = process
        threading.Thread(target=self._awake, name="bf-start", daemon=True).start()

    def _awake(self) -> None:
        self._running()
        self._waking = 0

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _start(self) -> None:
        try:
            from bf_plugin.web.assembly import Service  # only now: it loads the database and HTTP libraries

            self._service = Service(
                self.host_app,
                name=self.name,
                settings=self.settings,
                plugins=self.plugins,
                engines=self._engines,
            )
            self._failure = None
            atexit.register(self.close)
        except BFError as error:
            self._failure = (time.monotonic(), error)
            self._log.error("cannot start, serving the host app alone: %s", error)
        except Exception as error:
            reason = ConfigurationError(f"{type(error).__name__} while starting: the log has the details")
            self._failure = (time.monotonic(), reason)
            self._log.error("cannot start, serving the host app alone", error=error)

    def _failed_lately(self) -> bool:
        return self._failure is not None and time.monotonic() - self._failure[0] < _RETRY_START

    def _ours(self, service: Service | None, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get(INNER):
            message = "the host app called back into the plugin"
            return refuse(environ, start_response, 500, message, retry_after=_RETRY_START)
        if service is None:
            reason = str(self._failure[1]) if self._failure else "starting"
            message = f"the assistants endpoint cannot start: {reason}"
            return refuse(environ, start_response, 503, message, retry_after=_RETRY_START)
        after: list[Callable[[], None]] = []
        environ[AFTER] = after
        return _Answer(service.app(environ, start_response), after)

    def _answers_our_call(self, service: Service, environ: Environ) -> bool:
        """Tell whether a tool response is for a call of ours."""
        call_id = answered_call(environ, self.settings.body_limit)
        try:
            return call_id is not None and service.knows_tool_call(call_id)
        except BFError as error:
            self._log.error("cannot tell whose tool call an answer is for: %s", error)
            return False


class _Answer:
    """Our answer: once the server has sent and closed it, it calls what waits for that."""

    def __init__(self, body: Iterable[bytes], after: list[Callable[[], None]]) -> None:
        self._body = body
        self._after = after

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close the body, and make the calls. The server calls this once the answer is sent, or cannot be."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            for call in self._after:
                call()
