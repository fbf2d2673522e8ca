"""The gateway's WSGI application."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs

from bf_plugin.errors import RequestError
from bf_plugin.testing.events import text_of
from bf_plugin.testing.gateway.bodies import error_body, parse_actions, parse_body, parse_channels
from bf_plugin.testing.gateway.faults import Fault, Faults, Kind
from bf_plugin.testing.gateway.record import Attempt, Record
from bf_plugin.testing.gateway.sse import Channels

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

T = TypeVar("T")
Answer = tuple[int, str, Iterable[bytes]]
"""Status, content type, body."""

_LONGEST_HANG = 60.0
_REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    503: "Service Unavailable",
}


class RecordingGateway:
    """A WSGI app that speaks BetterForms' messaging and records it.

    `POST /message/sendmessage` and `POST /message/channels` for the server side, `GET /gateway/events?channel=...` for
    browsers, `GET /hello` to stand in for the host's own pages; subclasses add routes in `route`. `keys` are the app
    keys it knows.

        gateway = RecordingGateway(keys=["BFAPI_demo"])
        gateway.fault("status", 503, times=3)
        gateway.wait_for(lambda: gateway.events(type="end"), timeout=5)
    """

    headers: Sequence[tuple[str, str]] = ()
    """Sent with every answer."""

    def __init__(self, *, keys: Iterable[str] = ("BFAPI_demo",), seed: int | None = None) -> None:
        self.keys = frozenset(keys)
        self._record = Record()
        self._faults = Faults(seed)
        self._channels = Channels()
        # Recording and publishing are one act, so that browsers see the order the record tells.
        self._publishing = threading.Lock()

    # What tests ask

    @property
    def attempts(self) -> list[Attempt]:
        """Every message that arrived, failed ones included, in order of arrival."""
        return self._record.attempts()

    @property
    def messages(self) -> list[Attempt]:
        """Every message that browsers were sent, in that order."""
        return self._record.deliveries()

    def actions(self, action: str | None = None) -> list[dict[str, Any]]:
        """Return the actions browsers were sent, optionally of one kind, such as `llmToolCall`."""
        return [
            one for message in self.messages for one in message.actions if action is None or one["action"] == action
        ]

    def events(
        self,
        *,
        run_id: str | None = None,
        type: str | None = None,  # noqa: A002 - named as in the event
        name: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return the options of the named actions browsers were sent: the events, of one run, type or action name."""
        return [
            one["options"]
            for one in self.actions("namedAction")
            if (run_id is None or one["options"].get("runId") == run_id)
            and (type is None or one["options"].get("type") == type)
            and (name is None or one["name"] == name)
        ]

    def text(self, run_id: str) -> str:
        """Return the text of a run as a handler that places deltas by offset shows it."""
        return text_of(self.events(run_id=run_id, type="delta"))

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0) -> T:
        """Return the first true value of `predicate`, asked after each message; TimeoutError after `timeout` s."""
        return self._record.wait_for(predicate, timeout)

    def wait_for_end(self, run_id: str, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Wait for a run's `end` and return all its events."""
        self.wait_for(lambda: self.events(run_id=run_id, type="end"), timeout)
        return self.events(run_id=run_id)

    def wait_for_browsers(self, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until `count` browsers are connected."""
        self._channels.wait_for_subscribers(count, timeout)

    # What tests arrange

    def fault(
        self,
        kind: Kind,
        value: float | tuple[float, float] | None = None,
        *,
        times: int | None = 1,
        chance: float = 1.0,
        delivered: bool = False,
    ) -> None:
        """Let the next `times` messages (None: all) fail, each with probability `chance`.

        `status`: answer `value`. `delay`: wait `value` seconds, or a random time within a range. `hang`: no answer
        until `release()`. `drop`: close the connection without an answer (in-process: raise). `duplicate`: deliver
        twice to browsers. With `delivered` the message reaches browsers before it fails, so the caller is in doubt.
        """
        self._faults.add(Fault(kind, value, times, chance, delivered))

    def release(self) -> None:
        """Let hanging requests go on."""
        self._faults.release()

    def clear_faults(self) -> None:
        """Be a good gateway again."""
        self._faults.clear()

    def clear(self) -> None:
        """Forget what was recorded."""
        self._record.clear()

    def close(self) -> None:
        """End event streams and hanging requests."""
        self._faults.clear()
        self._channels.close()

    def publish(self, channels: Iterable[str], message: dict[str, Any]) -> None:
        """Send a message straight to browsers, unrecorded."""
        self._channels.publish(channels, json.dumps(message).encode())

    # WSGI

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        try:
            status, kind, body = self.route(environ["REQUEST_METHOD"], environ.get("PATH_INFO") or "/", environ)
        except RequestError as error:
            status, kind, body = error.code, "application/json", [error_body(error)]
        headers = [("Content-Type", kind), ("Cache-Control", "no-cache"), *self.headers]
        if isinstance(body, list):
            headers.append(("Content-Length", str(sum(map(len, body)))))
        start_response(f"{status} {_REASONS.get(status, 'Status')}", headers)
        return body

    def route(self, method: str, path: str, environ: WSGIEnvironment) -> Answer:
        """Answer one request; RequestError becomes a Feathers error. Subclasses add their pages here."""
        routes: dict[tuple[str, str], Callable[[WSGIEnvironment], Answer]] = {
            ("POST", "/message/sendmessage"): self._send,
            ("POST", "/message/channels"): self._list_channels,
            ("GET", "/gateway/events"): self._stream,
            ("GET", "/hello"): lambda _: (200, "text/plain", [b"hello from the gateway"]),
        }
        if (route := routes.get((method, path))) is None:
            raise RequestError(404, "Page not found")
        return route(environ)

    def accepts(self, key: str) -> bool:
        """Tell whether an app key is known."""
        return key in self.keys

    def _list_channels(self, environ: WSGIEnvironment) -> Answer:
        self._body(environ)
        # The documented answer: the active channels in two groups (Klai docs, "Get active channels").
        active: dict[str, list[str]] = {"authenticated": [], "anonymous": self._channels.active()}
        return 201, "application/json", [json.dumps(active).encode()]

    def _stream(self, environ: WSGIEnvironment) -> Answer:
        query = parse_qs(environ.get("QUERY_STRING", ""))
        last = environ.get("HTTP_LAST_EVENT_ID") or query.get("lastEventId", [""])[0]
        gone = environ.get("waitress.client_disconnected", lambda: False)
        last_id = int(last) if last.isdecimal() else None
        return 200, "text/event-stream", self._channels.subscribe(query.get("channel", []), last_id, gone)

    def _send(self, environ: WSGIEnvironment) -> Answer:
        raw, body = self._body(environ)
        attempt = Attempt(at=time.monotonic(), body=raw, channels=parse_channels(body), actions=parse_actions(body))
        self._record.arrived(attempt)
        status, copies = self._suffer(attempt, environ)
        if status is None:
            self._deliver(attempt, copies)
            status = 201
        self._record.answered(attempt, status)
        answer = raw if status == 201 else error_body(RequestError(status, "as asked for"))
        return status or 503, "application/json", [answer]

    def _suffer(self, attempt: Attempt, environ: WSGIEnvironment) -> tuple[int | None, int]:
        """Apply the active faults; return the status that ended it, if any, and how many copies browsers get."""
        copies = 1
        for fault in self._faults.strike():
            if fault.delivered and not attempt.delivered:
                self._deliver(attempt)
            if fault.kind == "duplicate":
                copies = 2
            elif fault.kind == "delay":
                threading.Event().wait(self._faults.value(fault))
            elif fault.kind == "hang":
                self._faults.hang(_LONGEST_HANG)
            elif fault.kind == "drop":
                _drop(environ)
                return 0, 0
            else:
                return int(self._faults.value(fault)), copies
        return None, copies

    def _deliver(self, attempt: Attempt, copies: int = 1) -> None:
        message = json.dumps({"actions": attempt.actions}, ensure_ascii=False).encode("utf-8", "surrogatepass")
        with self._publishing:
            if not attempt.delivered:
                self._record.delivered(attempt)
                for _ in range(copies):
                    self._channels.publish(attempt.channels, message)

    def _body(self, environ: WSGIEnvironment) -> tuple[bytes, dict[str, Any]]:
        raw, body = parse_body(environ)
        key = body.get("apiKey")
        if not isinstance(key, str) or not self.accepts(key):
            raise RequestError(401, "Invalid apiKey")
        return raw, body


def _drop(environ: WSGIEnvironment) -> None:
    """Cut the connection under the request: through waitress' channel where it serves us, else by raising."""
    gone = environ.get("waitress.client_disconnected")
    channel = getattr(gone, "__self__", None)
    if channel is not None:
        channel.socket.shutdown(socket.SHUT_RDWR)
    else:
        raise ConnectionResetError("the gateway dropped the connection")
