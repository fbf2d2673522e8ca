from __future__ import annotations

import asyncio
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest

from bf_plugin.gateway.host import INNER, HostAnswer, HostCaller, HostFailed, host_environ

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

START = {
    "REQUEST_METHOD": "POST",
    "SCRIPT_NAME": "/gw",
    "PATH_INFO": "/stream/create/assistants",
    "QUERY_STRING": "a=b",
    "HTTP_HOST": "gateway.example:8443",
    "HTTP_COOKIE": "session=secret",
    "HTTP_AUTHORIZATION": "Basic secret",
    "HTTP_X_API_KEY": "BFAPI_secret",
    "HTTP_X_FORWARDED_PROTO": "https",
    "REMOTE_ADDR": "192.0.2.7",
    "SERVER_NAME": "inner",
    "SERVER_PORT": "8080",
    "wsgi.url_scheme": "https",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.input": object(),
}
QUESTION = b'{"apiKey":"BFAPI_secret"}'


@pytest.fixture
def callers() -> Iterator[Callable[..., HostCaller]]:
    """Makes callers of host apps, and closes them."""
    made: list[HostCaller] = []

    def make(app: Any, **options: Any) -> HostCaller:
        made.append(HostCaller(app, **options))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what the environ says."""
    told = {key: value for key, value in environ.items() if isinstance(value, (str, bool))}
    told["body"] = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
    start_response("201 Created", [("Content-Type", "application/json"), ("Retry-After", "3")])
    return [json.dumps(told).encode()]


def test_the_journalled_environ_is_json_and_holds_no_credentials() -> None:
    """What a later call needs survives the journal; cookies and keys do not go there."""
    kept = host_environ(START)
    assert json.loads(json.dumps(kept)) == kept
    assert "secret" not in json.dumps(kept)
    assert host_environ(kept) == kept
    assert kept["HTTP_HOST"] == "gateway.example:8443"
    assert kept["SCRIPT_NAME"] == "/gw"


@pytest.mark.parametrize("environ", [START, host_environ(START)])
def test_the_host_sees_a_request_like_the_start(callers: Callable[..., HostCaller], environ: dict[str, Any]) -> None:
    """Host, scheme, prefix and client are those of the start; the rest is a JSON POST of our own."""
    answer = callers(validator(echo)).call("/message/channels", b'{"a":1}', environ)
    seen = json.loads(answer.body)
    assert (answer.status, answer.headers["retry-after"]) == (201, "3")
    assert seen["body"] == '{"a":1}'
    assert {key: seen[key] for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE")} == {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/message/channels",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
    }
    for key in ("HTTP_HOST", "SCRIPT_NAME", "REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme"):
        assert seen[key] == START[key]
    assert seen["CONTENT_LENGTH"] == "7"
    assert seen[INNER] is True
    assert "secret" not in answer.body.decode()


@pytest.mark.parametrize("environ", [{}, {"SCRIPT_NAME": "/"}, {"wsgi.multithread": False}])
def test_the_environ_is_valid_whatever_was_journalled(
    callers: Callable[..., HostCaller], environ: dict[str, Any]
) -> None:
    """PEP 3333's checker is silent even when nothing is known of the start."""
    assert callers(validator(echo)).call("/message/channels", b"{}", environ).status == 201


def test_the_event_loop_asks_without_blocking(callers: Callable[..., HostCaller]) -> None:
    """The async variant gives the same answer, and the loop runs on meanwhile."""
    go = threading.Event()

    def waits(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert go.wait(5)
        return echo(environ, start_response)

    async def ask() -> HostAnswer:
        asking = asyncio.ensure_future(callers(waits).call_async("/x", b"{}", START))
        await asyncio.sleep(0)
        go.set()
        return await asking

    assert asyncio.run(ask()).status == 201


class Body:
    """A body that tells whether it was closed."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("chunks", [[], [b""], [b"a", b"", b"b"]])
def test_bodies_are_closed_once(callers: Callable[..., HostCaller], chunks: list[bytes]) -> None:
    """A body is read and close() is called, once."""
    body = Body(chunks)
    assert callers(answering(body)).call("/x", b"", START).body == b"".join(chunks)
    assert body.closed == 1


def test_a_body_that_fails_is_closed(callers: Callable[..., HostCaller]) -> None:
    """Half a body is no answer, and close() is still called."""

    def chunks() -> Iterator[bytes]:
        yield b"x"
        raise OSError("BFAPI_secret")

    body = Body(chunks())
    with pytest.raises(HostFailed, match="OSError"):
        callers(answering(body)).call("/x", b"", START)
    assert body.closed == 1


def answering(body: Iterable[bytes]) -> WSGIApplication:
    """Return a host app that answers 200 with `body`."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    return app


def test_write_and_late_start_response(callers: Callable[..., HostCaller]) -> None:
    """The old write() callable works, and so does start_response from within the body."""

    def writes(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])(b"a")
        return [b"b"]

    def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("299 Fine", [])
        yield b"c"

    assert callers(writes).call("/x", b"", START).body == b"ab"
    assert callers(late).call("/x", b"", START) == HostAnswer(299, {}, b"c")


def test_an_error_page_replaces_an_answer_that_was_not_begun(callers: Callable[..., HostCaller]) -> None:
    """start_response with exc_info: a second status before the body, the exception itself after."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/begun":
            write(b"x")
        try:
            raise KeyError("BFAPI_secret")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"sorry"]

    assert callers(app).call("/fresh", b"", START) == HostAnswer(500, {}, b"sorry")
    with pytest.raises(HostFailed, match="KeyError"):
        callers(app).call("/begun", b"", START)


def raises(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Raise, quoting the request."""
    raise RuntimeError(environ["wsgi.input"].read().decode())


def exits(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Try to end the process."""
    raise SystemExit(1)


def silent(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Never call start_response."""
    return [b"x"]


def twice(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Call start_response twice."""
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def nonsense(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Call start_response with a status that is none."""
    start_response("fine", [])
    return []


def nothing(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """Return no iterable."""
    start_response("200 OK", [])


@pytest.mark.parametrize("app", [raises, exits, silent, twice, nonsense, nothing])
def test_a_broken_host_is_a_failure_that_quotes_nothing(
    callers: Callable[..., HostCaller], app: WSGIApplication
) -> None:
    """What the host raised is told by type and place, never by its text, and the thread lives on."""
    caller = callers(app, threads=1)
    for _ in range(2):
        with pytest.raises(HostFailed) as caught:
            caller.call("/x", QUESTION, START)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert caller.stuck == 0


def test_the_failure_names_the_place(callers: Callable[..., HostCaller]) -> None:
    """An operator can find the line of the host that raised."""
    with pytest.raises(HostFailed, match=rf"raised RuntimeError in raises \({__file__}:\d+\)"):
        callers(raises).call("/x", b"", START)


class Gate:
    """A host app that hangs until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.left = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls += 1
        self.entered.release()
        assert self.go.wait(20)
        self.left.release()
        start_response("200 OK", [])
        return [b"late"]


def test_a_stuck_call_fails_at_its_deadline_and_is_counted(callers: Callable[..., HostCaller]) -> None:
    """A host that hangs costs its callers the deadline, readiness sees it, and other calls still get through."""
    gate = Gate()
    caller = callers(gate, threads=1, deadline=0.05)
    with pytest.raises(HostFailed, match=r"within 0\.05 s"):
        caller.call("/x", b"", START)
    assert caller.stuck == 1
    with pytest.raises(HostFailed, match="within"):
        asyncio.run(caller.call_async("/x", b"", START))
    assert (caller.stuck, gate.calls) == (2, 2)
    gate.go.set()
    assert caller.call("/x", b"", START).body == b"late"


def test_a_single_threaded_host_is_never_called_twice_at_once(callers: Callable[..., HostCaller]) -> None:
    """Where the server says wsgi.multithread is false, a stuck call holds up the others: none is begun."""
    gate = Gate()
    caller = callers(gate, threads=4, deadline=0.05)
    for _ in range(3):
        with pytest.raises(HostFailed):
            caller.call("/x", b"", {**START, "wsgi.multithread": False})
    assert (gate.calls, caller.stuck) == (1, 1)
    gate.go.set()
    assert gate.left.acquire(timeout=5)
    assert caller.call("/x", b"", START).status == 200
    assert gate.calls == 2  # Those that gave up in the queue were never made.


def test_an_endless_answer_ends(callers: Callable[..., HostCaller]) -> None:
    """A body without end does not hold a thread or grow without bound."""

    def endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        while True:
            yield b"x" * 65_536

    assert len(callers(endless).call("/x", b"", START).body) < 5_000_000


@pytest.mark.parametrize("path", ["/stream/create/assistants", "/stream/create/assistants/stop", "/llm/tool-response"])
def test_our_own_paths_are_refused(callers: Callable[..., HostCaller], path: str) -> None:
    """A call that would come back to the plugin is a bug, found before it is made."""
    with pytest.raises(ValueError, match="the plugin itself"):
        callers(echo).call(path, b"", START)


def test_a_cancelled_caller_leaves_nothing_behind(callers: Callable[..., HostCaller]) -> None:
    """A driver that is cancelled in mid-call gives the call up; it is counted until it comes back."""
    gate = Gate()
    caller = callers(gate)

    async def cancel() -> None:
        asking = asyncio.ensure_future(caller.call_async("/x", b"", START))
        await asyncio.get_running_loop().run_in_executor(None, gate.entered.acquire)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(cancel())
    assert caller.stuck == 1
    gate.go.set()


def test_a_closed_caller_calls_nobody(callers: Callable[..., HostCaller]) -> None:
    """After close() a call fails at once."""
    caller = callers(echo)
    caller.call("/x", b"", START)
    caller.close()
    with pytest.raises(HostFailed, match="closing"):
        caller.call("/x", b"", START)
    with pytest.raises(HostFailed, match="closing"):
        asyncio.run(caller.call_async("/x", b"", START))
