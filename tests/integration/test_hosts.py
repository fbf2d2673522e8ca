"""Gateways of several kinds with the plugin mounted: their own requests pass untouched, ours are served."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from bf_plugin import Application, Settings, mount
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.process import Site
from bf_plugin.testing.provider import Gate, text

HOSTS = Path(__file__).parents[1] / "hosts"
APPS = {"flask_app": "app", "django_app": "application", "wsgi_app": "application"}

Wsgi = Callable[..., Iterable[bytes]]


@pytest.fixture
def load(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Return a function that imports a host of tests/hosts with the site's settings and returns its WSGI app."""
    for name, value in site.environ.items():
        monkeypatch.setenv(name, value)
    mounted: list[Application] = []

    def load(name: str) -> Any:
        app = getattr(_module(name), APPS[name])
        mounted.append(app.wsgi_app if name == "flask_app" else app)
        return app

    yield load
    for application in mounted:
        application.close()


def _module(name: str) -> ModuleType:
    """Import a host afresh, so that it reads this test's environment; Django may be configured only once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, HOSTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if name == "django_app":
        sys.modules[name] = module  # Django imports its urls by this name
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", APPS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:django")
def test_a_gateway_under_waitress(name: str, site: Site, load: Callable[[str], Any]) -> None:
    """Pages and bodies of the gateway come through whole, a run streams, its thread goes on."""
    site.provider.script("streamed", "polled")
    with GatewayServer(RecordingGateway(), app=load(name)) as server:
        assert site.http.get(server.url + "/hello", timeout=30).text.startswith("hello from ")
        body = bytes(range(256)) * 300
        assert site.http.post(server.url + "/echo", body, timeout=30).content == body

        run = site.start(server.url)
        assert site.events(run)[-1]["finish_reason"] == "stop"
        assert site.gateway.text(run["runId"]) == "streamed"
        answer = site.start(server.url, stream=False, thread_id=run["threadId"])
        assert answer["data"][0]["text"]["value"] == "polled"


@pytest.mark.parametrize("name", APPS)
def test_a_gateway_served_by_waitress_itself(name: str, site: Site) -> None:
    """`waitress-serve` needs nothing but the name of the app."""
    site.provider.script("served")
    server = site.serve("waitress-serve", "--listen=127.0.0.1:0", f"{name}:{APPS[name]}", cwd=HOSTS)

    assert site.http.get(server.url + "/hello", timeout=30).text.startswith("hello from ")
    run = site.start(server.url)
    site.events(run)
    assert site.gateway.text(run["runId"]) == "served"


def test_under_a_prefix(deploy: Callable[..., Deployment]) -> None:
    """Mounted below a prefix, the paths are those below the prefix, for the gateway and for the endpoint."""

    def nested(app: Wsgi) -> Wsgi:
        dispatcher: Wsgi = DispatcherMiddleware(_not_found, {"/portal": app})
        return dispatcher

    deployed = deploy(wrap=nested, prefix="/portal")
    deployed.provider.script("below a prefix")

    run = deployed.start()

    assert deployed.events(run)[-1]["finish_reason"] == "stop"
    assert deployed.get("/hello").text == "hello from the gateway"
    assert (
        requests.post(deployed.url.removesuffix("/portal") + "/stream/create/assistants", timeout=30).status_code == 404
    )


def _not_found(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]


def test_two_in_one_process_do_not_see_each_other(tmp_path: Path, deploy: Callable[..., Deployment]) -> None:
    """Two mounts have their own threads of conversation, apps, plugins and settings; closing one leaves the other."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = deploy(folder=tmp_path / "one", model="model-one")
    two = deploy(folder=tmp_path / "two", model="model-two", gateway=RecordingGateway(keys=[APP_KEY]))
    one.provider.script("from one")
    two.provider.script("from two", "from two again")

    first, second = one.start(), two.start()
    one.events(first)
    two.events(second)

    assert (one.text(first), two.text(second)) == ("from one", "from two")
    assert two.post("", two.body(thread_id=first["threadId"])).status_code == 404
    assert two.stop(first)["status"] == "not_found"
    assert [request.body["model"] for request in one.provider.requests if request.operation == "create"] == [
        "model-one"
    ]
    one.application.close()
    again = two.start(thread_id=second["threadId"])
    two.events(again)
    assert two.text(again) == "from two again"


def test_nested_mounts_answer_for_themselves(tmp_path: Path, deploy: Callable[..., Deployment]) -> None:
    """Two mounts side by side in one dispatcher: each path leads to its own."""
    applications: list[Application] = []

    def beside(app: Wsgi) -> Wsgi:
        other = mount(
            _not_found,
            settings=Settings(api_keys=SecretStr("BFAPI_other"), database_url=f"sqlite:///{tmp_path}/other.db"),
        )
        applications.append(other)
        dispatcher: Wsgi = DispatcherMiddleware(app, {"/other": other})
        return dispatcher

    deployed = deploy(wrap=beside)
    try:
        deployed.provider.script("mine")
        run = deployed.start()
        deployed.events(run)
        refused = requests.post(deployed.url + "/other/stream/create/assistants", json=deployed.body(), timeout=30)
        assert refused.status_code == 401
        assert deployed.text(run) == "mine"
    finally:
        applications[0].close()


class Body:
    """A response body as strict servers see them: counted."""

    def __init__(self) -> None:
        self.closed = 0
        self.iterated = 0

    def __iter__(self) -> Iterator[bytes]:
        self.iterated += 1
        yield b"chunk"

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("PUT", "/stream/create"),
        ("POST", "/stream/create/assistantsX"),
        ("POST", "/stream/create/assistantsX/stop"),
        ("GET", "/llm/tool-response"),
        ("POST", "/llm/tool-responses"),
        ("GET", "//stream/create/assistants"),
    ],
)
def test_requests_of_the_host_pass_untouched(tmp_path: Path, method: str, path: str) -> None:
    """The host gets the very environ and start_response of the server, the server gets the host's very iterable."""
    seen: list[tuple[object, object]] = []
    body = Body()

    def host(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.append((environ, start_response))
        return body

    application = mount(
        host, settings=Settings(api_keys=SecretStr(APP_KEY), database_url=f"sqlite:///{tmp_path}/journal.db")
    )
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": "0"}
    before = dict(environ)

    def start_response(*_: Any) -> None:
        raise AssertionError("nobody but the host may call this")

    try:
        answer = application(environ, start_response)
    finally:
        application.close()

    assert answer is body
    assert seen == [(environ, start_response)]
    assert seen[0][0] is environ
    assert seen[0][1] is start_response
    assert environ == before
    assert (body.iterated, body.closed) == (0, 0)


def test_a_host_body_is_closed_once(deploy: Callable[..., Deployment]) -> None:
    """Served for real, the host's iterable is iterated once and closed once."""
    body = Body()

    def serve_body(gateway: Wsgi) -> Wsgi:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/page":
                return gateway(environ, start_response)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return body

        return app

    deployed = deploy(inner=serve_body)

    assert requests.get(deployed.url + "/page", timeout=30).text == "chunk"
    assert (body.iterated, body.closed) == (1, 1)


def test_what_the_host_raises_reaches_the_server(tmp_path: Path) -> None:
    """An exception of the host is the server's to handle, not ours."""

    def host(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        raise LookupError("the host's own")

    application = mount(
        host, settings=Settings(api_keys=SecretStr(APP_KEY), database_url=f"sqlite:///{tmp_path}/journal.db")
    )
    try:
        with pytest.raises(LookupError, match="the host's own"):
            application({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    finally:
        application.close()


def test_close_ends_all_threads_and_the_next_request_starts_anew(deploy: Callable[..., Deployment]) -> None:
    """`close` leaves no thread of ours behind; the deployment's threads of conversation are still there afterwards."""
    others = set(threading.enumerate())
    deployed = deploy()
    deployed.provider.script("before", "after")
    run = deployed.start()
    deployed.events(run)

    deployed.application.close()

    ours = [thread for thread in threading.enumerate() if thread.name.startswith("bf-") and thread not in others]
    for thread in ours:
        thread.join(10)  # those that call the host are told to end, and not waited for
    assert [thread.name for thread in ours if thread.is_alive()] == []
    again = deployed.start(thread_id=run["threadId"])
    deployed.events(again)
    assert deployed.text(again) == "after"


def test_close_hands_runs_over(deploy: Callable[..., Deployment]) -> None:
    """A run under way at `close` is not waited for; the next start goes on with it, and its thread works."""
    gate = Gate()
    deployed = deploy()
    deployed.provider.script(text("so far", gate, " and on"), "after")
    run = deployed.start()
    gate.wait_reached()

    deployed.application.close()
    gate.release()
    deployed.get("/healthz")

    assert deployed.events(run)[-1]["finish_reason"] == "stop"
    assert deployed.text(run) == "so far and on"
    again = deployed.start(thread_id=run["threadId"])
    deployed.events(again)
    assert deployed.text(again) == "after"


FORK = """
import json, os, sys, threading
from bf_plugin import hookimpl, mount

def host(environ, start_response):
    start_response("404 Not Found", [("Content-Length", "0")])
    return [b""]

def poll(text):
    import io
    payload = {"apiKey": "sk-test", "stream": False, "messages": [{"role": "user", "content": text}]}
    body = json.dumps({"apiKey": os.environ["BF_API_KEYS"], "payload": payload}).encode()
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/stream/create/assistants", "SCRIPT_NAME": "", "QUERY_STRING": "",
        "SERVER_NAME": "test", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True,
        "wsgi.run_once": False, "wsgi.input": io.BytesIO(body), "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
    }
    answer = application(environ, lambda status, headers, exc_info=None: print(text, status, flush=True))
    b"".join(answer)
    answer.close()

class Counter:
    def __init__(self, context):
        self.context, self.pid = context, os.getpid()

    @hookimpl
    def before_run(self, run):
        number, thread = self.context.store.increment("runs"), self.context.run_async(thread_name())
        print("run", number, thread, "made here" if self.pid == os.getpid() else "made elsewhere", flush=True)

async def thread_name():
    return threading.current_thread().name

application = mount(host, plugins=[Counter])
application.start()
poll("parent")
child = os.fork()
if child == 0:
    poll("child")
    application.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
poll("parent again")
"""


def test_a_fork_starts_afresh_and_leaves_its_parent_alone(site: Site) -> None:
    """Parent and child both serve after a fork in mid-life, and the parent goes on after the child has closed.

    Factories of plugins are called in the child again; what plugins keep in their store is one thing for both.
    """
    site.provider.script("one", "two", "three")

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env={**os.environ, **site.environ},
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [
        "run 1 bf-loop made here",
        "parent 200 OK",
        "run 2 bf-loop made here",
        "child 200 OK",
        "run 3 bf-loop made here",
        "parent again 200 OK",
    ]


EXIT = """
import asyncio, sys
from bf_plugin import hookimpl, mount

class Last:
    def __init__(self, context):
        self.context = context

    @hookimpl
    def on_end(self, run): ...

    async def aclose(self):
        await asyncio.sleep(0)
        print("aclose", flush=True)

    def close(self):
        self.context.run_async(asyncio.sleep(0))
        print("close", self.context.store.increment("closed"), flush=True)

mount(None, plugins=[Last]).start()
"""


def test_plugins_are_closed_when_the_interpreter_exits(site: Site) -> None:
    """Nobody calls `close` of the application, and no thread can be started any more (Python 3.12): all is closed."""
    said = []
    for _ in range(2):
        command = [sys.executable, "-c", EXIT]
        environ = {**os.environ, **site.environ}
        done = subprocess.run(command, env=environ, cwd=site.folder, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        said += done.stdout.splitlines()
    assert said == ["aclose", "close 1", "aclose", "close 2"]


def test_a_started_application_has_everything_loaded(site: Site) -> None:
    """When `start` returns no import is under way: a child of a fork could never finish it."""
    script = (
        "import sys, threading; from bf_plugin import mount; mount(None).start();"
        "print('openai' in sys.modules, 'warm-up' in {thread.name for thread in threading.enumerate()})"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **site.environ},
        cwd=site.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout.split() == ["True", "False"]
