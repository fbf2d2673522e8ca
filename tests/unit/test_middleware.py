"""The middleware: the host's requests are the host's, whatever becomes of the plugin."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from bf_plugin.errors import ConfigurationError, JournalError
from bf_plugin.gateway.host import INNER
from bf_plugin.runtime.paths import AFTER, PREFIX, TOOL_RESPONSE
from bf_plugin.settings import Settings
from bf_plugin.web import mount as middleware
from bf_plugin.web.mount import Application, mount

Environ = dict[str, Any]


class Body:
    """A host's iterable."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"host"])

    def close(self) -> None:
        self.closed += 1


class Host:
    """A host app that notes what it is called with."""

    def __init__(self) -> None:
        self.environs: list[Environ] = []
        self.answers: list[Body] = []
        self.read: list[bytes] = []

    def __call__(self, environ: Environ, start_response: Any) -> Body:
        self.environs.append(environ)
        if "wsgi.input" in environ:
            self.read.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        self.answers.append(Body())
        return self.answers[-1]


class Service:
    """What the middleware knows of the service; `failures` are raised by its next constructions."""

    failures: list[Exception]
    made: list[Service]
    gate: threading.Event

    def __init__(self, host: Any, **options: Any) -> None:
        self.gate.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.runs = self
        self.calls: list[Environ] = []
        self.read: list[bytes] = []
        self.closed = False
        self.made.append(self)

    def wait_until_warm(self) -> None:
        pass

    def app(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        self.calls.append(environ)
        if "wsgi.input" in environ:
            self.read.append(environ["wsgi.input"].read())
        start_response("201 Created", [])
        return [b"ours"]

    def knows_tool_call(self, tool_call_id: str) -> bool:
        if tool_call_id == "tool_broken":
            raise JournalError("locked")
        return tool_call_id == "tool_ours"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> type[Service]:
    gate = threading.Event()
    gate.set()
    fresh = type("Fresh", (Service,), {"failures": [], "made": [], "gate": gate})
    monkeypatch.setattr("bf_plugin.web.assembly.Service", fresh)
    return fresh


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def application(host: Host, service: type[Service]) -> Iterator[Application]:
    application = mount(host, settings=Settings())
    yield application
    application.close()


def call(application: Application, path: str, **environ: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """Serve one request as a server does, `close()` included."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    body = application({"PATH_INFO": path, **environ}, lambda status, headers: started.append((status, headers)))
    data = b"".join(body)
    getattr(body, "close", lambda: None)()
    return *started[-1], data


def test_a_hosts_request_is_untouched(application: Application, host: Host) -> None:
    """The same environ and the same iterable, closed by the server alone."""
    environ = {"PATH_INFO": "/hello", "wsgi.input": io.BytesIO(b"body")}
    kept = dict(environ)

    answer = application(environ, lambda *_: None)

    assert host.environs[0] is environ
    assert environ == kept
    assert answer is host.answers[0]
    assert host.answers[0].closed == 0


@pytest.mark.parametrize("path", ["", "/", "/stream/create", PREFIX + "x", "/llm/tool-responses"])
def test_paths_that_are_not_ours(application: Application, host: Host, path: str) -> None:
    """A prefix counts with its slash."""
    assert call(application, path)[2] == b"host"


def test_a_hosts_request_does_not_wait_for_our_start(
    application: Application, host: Host, service: type[Service]
) -> None:
    """The first one starts the service in the background, however long that takes."""
    service.gate.clear()
    assert call(application, "/hello")[2] == b"host"
    assert call(application, "/hello")[2] == b"host"
    service.gate.set()

    assert call(application, PREFIX)[2] == b"ours"
    assert len(service.made) == 1


def test_our_own_calls_of_the_host_start_nothing(application: Application, host: Host, service: type[Service]) -> None:
    """A process that only looks at the host, as `bf-plugin doctor` does, must not become one that drives runs."""
    assert call(application, "/message/channels", **{INNER: True})[2] == b"host"
    assert application._waking == 0

    assert call(application, PREFIX)[2] == b"ours"
    assert len(service.made) == 1


def test_what_is_mounted_can_be_read(host: Host) -> None:
    """What `mount` was given, as it was given."""
    settings, plugin = Settings(model="m"), object()
    application = mount(host, name="portal", settings=settings, plugins=[plugin])

    assert (application.host_app, application.name, application.settings) == (host, "portal", settings)
    assert application.plugins == (plugin,)


@pytest.mark.parametrize("failure", [ConfigurationError("BF_X: wrong"), KeyError("BFAPI_secret")])
def test_a_start_that_fails(
    application: Application, host: Host, service: type[Service], failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is served alone, our paths answer 503, and a later request tries again."""
    service.failures.append(failure)

    status, headers, body = call(application, PREFIX)

    assert status.startswith("503")
    assert "Retry-After" in dict(headers)
    assert json.loads(body)["className"] == "unavailable"
    assert "BFAPI_" not in body.decode()
    assert call(application, "/hello")[2] == b"host"
    assert call(application, TOOL_RESPONSE, REQUEST_METHOD="POST")[2] == b"host"
    with pytest.raises(ConfigurationError):
        application.start()
    monkeypatch.setattr(middleware, "_RETRY_START", 0.0)
    assert call(application, PREFIX)[2] == b"ours"


def test_recursion_is_refused(application: Application, service: type[Service]) -> None:
    """A host that answers our call by calling us does not go round in circles."""
    status, _, _ = call(application, PREFIX, **{INNER: True})

    assert status.startswith("500")
    assert service.made[0].calls == []


def test_what_waits_for_the_answer_is_called_at_its_close(application: Application, service: type[Service]) -> None:
    """Not before, and all of it."""
    told: list[str] = []
    environ: Environ = {"PATH_INFO": PREFIX}
    answer = application(environ, lambda *_: None)
    environ[AFTER] += [lambda: told.append("one"), lambda: told.append("two")]
    assert list(answer) == [b"ours"]
    assert told == []

    answer.close()  # type: ignore[attr-defined]

    assert told == ["one", "two"]


OURS, THEIRS, BROKEN = b'{"toolCallId":"tool_ours"}', b'{"toolCallId":"42"}', b'{"toolCallId":"tool_broken"}'


def _with_length(body: bytes) -> Environ:
    return {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}


def _chunked(body: bytes) -> Environ:
    return {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(body)}


@pytest.mark.parametrize("sent", [_with_length, _chunked])
@pytest.mark.parametrize("body", [THEIRS, BROKEN, b"no json", b"[]", b'{"toolCallId":"tool_ours' + b" " * 2_000_000])
def test_an_answer_to_the_hosts_own_tools(
    application: Application, host: Host, body: bytes, sent: Callable[[bytes], Environ]
) -> None:
    """It reaches the host with its body, whatever that is and however it was sent."""
    assert call(application, TOOL_RESPONSE, REQUEST_METHOD="POST", **sent(body))[2] == b"host"
    assert host.read == [body]


@pytest.mark.parametrize("sent", [_with_length, _chunked])
def test_an_answer_to_our_tools(
    application: Application, service: type[Service], sent: Callable[[bytes], Environ]
) -> None:
    """It is ours, with its body."""
    assert call(application, TOOL_RESPONSE, REQUEST_METHOD="POST", **sent(OURS))[2] == b"ours"
    assert service.made[0].read == [OURS]


def test_a_forked_child_starts_afresh(
    application: Application, service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the fork happened while the parent held the lock; the parent's service is neither closed nor freed."""
    application.start()
    parent = service.made[0]
    with application._lock():
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert call(application, PREFIX)[2] == b"ours"

    assert len(service.made) == 2
    assert not parent.closed
    assert parent in application._left
    application.close()
    assert service.made[1].closed


def test_close_and_start_again(application: Application, service: type[Service]) -> None:
    """A closed plugin comes back with the next request; closing twice is closing once."""
    application.start()
    application.close()
    application.close()

    assert service.made[0].closed
    assert call(application, PREFIX)[2] == b"ours"
    assert len(service.made) == 2
