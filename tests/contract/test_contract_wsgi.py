"""As WSGI: the validators really watch, the host is untouched, and all works under a prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.provider import Gate, call, text

Deploy = Callable[..., Deployment]
Wsgi = Callable[..., Iterable[bytes]]
PREFIX = "/portal/api"


class Prefix:
    """Serves an app under a prefix, as a server or a dispatcher would."""

    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Move the prefix from PATH_INFO to SCRIPT_NAME."""
        path = environ["PATH_INFO"]
        if not path.startswith(PREFIX):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not below the prefix"]
        moved = {"SCRIPT_NAME": environ["SCRIPT_NAME"] + PREFIX, "PATH_INFO": path[len(PREFIX) :]}
        return self._app({**environ, **moved}, start_response)


class Host(RecordingGateway):
    """A gateway that keeps the environs it is called with, and says when its answers were closed."""

    def __init__(self) -> None:
        super().__init__(keys=[APP_KEY])
        self.environs: list[dict[str, Any]] = []
        self.closed = 0

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Serve one request."""
        self.environs.append(environ)
        return Closing(self, super().__call__(environ, start_response))


class Closing:
    """An answer that counts how often it is closed."""

    def __init__(self, host: Host, answer: Iterable[bytes]) -> None:
        self._host = host
        self._answer = answer

    def __iter__(self) -> Any:
        return iter(self._answer)

    def close(self) -> None:
        """Count."""
        self._host.closed += 1


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_all_of_it(deploy: Deploy, prefix: str) -> None:
    """Start, poll, stop, tools, continue, refuse and the host's own pages work the same under a prefix."""
    host = Host()
    under = {"wrap": Prefix, "prefix": prefix} if prefix else {}
    deployed = deploy(gateway=host, **under)
    gate = Gate()
    tools = [{"type": "function", "name": "ui_show", "parameters": {"type": "object", "properties": {}}}]
    deployed.provider.script([text("Look. "), call("ui_show")], "Seen.", "Polled.", text("So far ", gate), "Again.")

    run = deployed.start(tools=tools)
    (action,) = deployed.gateway.wait_for(lambda: deployed.gateway.actions("llmToolCall"))
    answer = deployed.post("/llm/tool-response", {"toolCallId": action["options"]["toolCallId"], "ok": True})
    assert answer.json() == {"success": True, "status": "accepted"}
    assert deployed.events(run)[-1]["finish_reason"] == "stop"
    assert deployed.text(run) == "Look. Seen."

    assert deployed.poll(thread_id=run["threadId"])["data"][0]["text"]["value"] == "Polled."
    run = deployed.start(thread_id=run["threadId"])
    gate.wait_reached()
    assert deployed.stop(run)["status"] == "cancelled"
    assert deployed.events(run)[-1]["finish_reason"] == "cancelled"
    assert deployed.poll(thread_id=run["threadId"])["status"] == "done"

    deployed.refused(400, {}, "/stop")
    deployed.refused(401, {**deployed.body(), "apiKey": "BFAPI_no"})
    assert deployed.get("/healthz").json() == {"status": "ok"}
    assert deployed.get("/readyz").status_code == 200
    assert deployed.get("/openapi.json").json()["openapi"] == "3.1.0"
    assert deployed.get("/plugins", headers={"X-Api-Key": APP_KEY}).status_code == 200
    assert deployed.get("/nothing").status_code == 404
    assert deployed.get("/hello").text == "hello from the gateway"
    assert {environ["SCRIPT_NAME"] for environ in host.environs} == {prefix}


def test_outside_the_prefix(deploy: Deploy) -> None:
    """Only what is below the prefix is served."""
    deployed = deploy(wrap=Prefix, prefix=PREFIX)

    answer = requests.get(deployed.url.removesuffix(PREFIX) + "/stream/create/assistants/healthz", timeout=10)

    assert answer.text == "not below the prefix"


def test_trailing_slash(deployed: Deployment) -> None:
    """A slash at the end of a path does no harm."""
    deployed.provider.script("Hello")

    answer = deployed.post("/", deployed.body(stream=False))

    assert answer.status_code == 200


def test_host_is_untouched() -> None:
    """A request for the host has the same environ, its answer is the host's own iterable, closed once by the server."""
    from bf_plugin import mount
    from bf_plugin.settings import Settings

    host = Host()
    application = mount(host, settings=Settings(database_url="sqlite://", api_keys=SecretStr(APP_KEY)))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/hello", "QUERY_STRING": "a=b", "the.hosts": object()}
    before = dict(environ)

    try:
        answer = application(environ, lambda *_: None)
    finally:
        application.close()

    assert host.environs[0] is environ
    assert environ == before
    assert isinstance(answer, Closing)
    assert host.closed == 0


def test_validators_watch(deployed: Deployment, request: pytest.FixtureRequest) -> None:
    """An app that breaks the protocol does not pass between the validators of this suite."""
    linter_type = type(request.getfixturevalue("linter"))

    def broken(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200", [("Content-type", "text/plain")])
        return ["text"]  # type: ignore[list-item]

    def late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "9")])
        return [b"short"]

    for app in (broken, late):
        linter = linter_type()
        with GatewayServer(RecordingGateway(), app=linter(app)) as server:
            answer = requests.post(server.url, data=b"x", timeout=10)
        assert answer.status_code == 500
        assert linter.all_complaints() != []
