"""The whole way: a run, its messages over Redis and Socket.IO servers, the shipped handler in Chromium as the judge.

Two servers share the Redis, one of each kind, and a page sits on each. The handler may not fetch what it missed here
(`fetchMissed` knows nothing), so what it shows came over Socket.IO.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bf_plugin.testing import Deployment, Gate, RecordingGateway, assert_events

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY = "BFAPI_demo"
SECTION = {"room_prefix": "channel:", "event": "assistant", "subscribers": 2}
ALPHABET = [*"abcdefghij \n\"\\{}<>&'", "é", "e\u0301", "漢", "\u2028", "🦄", "👩‍👩‍👧‍👦", "\U0010ffff"]

OPEN = """async ({ url, channels, namespace, key }) => {
  window.runs = {};
  window.messages = [];
  window.assistant = new BFAssistant.Assistant({
    apiKey: key, channels, actionName: "judge", fetchMissed: async () => null,
    onText: (text, run) => { document.body.textContent = text; },
    onEnd: ({ finishReason, complete }, run) => {
      runs[run.runId] = { finishReason, complete, bytes: [...new TextEncoder().encode(run.text)] };
    },
  });
  window.socket = io(url + namespace, { auth: { channels } });
  socket.on("assistant", (message) => { messages.push(message); assistant.handleMessage(message); });
  await new Promise((connected, failed) => { socket.on("connect", connected); socket.on("connect_error", failed); });
}"""


class Pages(RecordingGateway):
    """A gateway that serves an empty page, the handler, and the client of Socket.IO."""

    def __init__(self, client: bytes) -> None:
        super().__init__(keys=[KEY])
        handler = (resources.files("bf_plugin.browser") / "handler.js").read_bytes()
        page = b'<!doctype html><script src="client.js"></script><script src="handler.js"></script>'
        self._files = {
            "/": ("text/html; charset=utf-8", page),
            "/client.js": ("text/javascript; charset=utf-8", client),
            "/handler.js": ("text/javascript; charset=utf-8", handler),
        }

    def route(self, method: str, path: str, environ: WSGIEnvironment) -> Any:
        if method == "GET" and path in self._files:
            kind, body = self._files[path]
            return 200, kind, [body]
        return super().route(method, path, environ)


@dataclass
class Tab:
    """A page in Chromium, on one of the Socket.IO servers."""

    page: Page
    server: str

    def open(self, deployed: Deployment, *channels: str, namespace: str = "/") -> Tab:
        """Load the page of a gateway and enter the rooms of some channels."""
        self.page.goto(deployed.url + "/")
        options = {"url": self.server, "channels": channels or ["news"], "namespace": namespace, "key": KEY}
        self.page.evaluate(OPEN, options)
        return self

    def ask(self) -> str:
        run: str = self.page.evaluate("() => assistant.start('Say it').then((run) => run.runId)")
        return run

    def messages(self) -> list[Any]:
        """Return what came over Socket.IO, each message as often as it came."""
        heard: list[Any] = self.page.evaluate("messages")
        return heard

    def text(self) -> str:
        shown: str = self.page.evaluate("document.body.textContent")
        return shown

    def wait_for_text(self, text: str) -> None:
        self.page.wait_for_function("text => document.body.textContent === text", arg=text)

    def assert_shown(self, run: str, said: str) -> None:
        """Assert that, once the page has the run's end, it shows what was said, and that its events came in order."""
        self.page.wait_for_function("run => run in runs", arg=run, timeout=60_000)
        end = self.page.evaluate("run => runs[run]", run)
        assert (end["finishReason"], end["complete"], bytes(end["bytes"])) == ("stop", True, said.encode())
        events = [action["options"] for message in self.messages() for action in message["actions"]]
        mine = [event for event in events if event["runId"] == run]
        assert_events(mine, "threadInfo delta+ end", text=said, finish_reason="stop")
        numbers = list(dict.fromkeys(event["seq"] for event in mine))
        assert numbers == sorted(numbers), "a later event came before an earlier one"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def shared_redis(new_redis: Callable[..., Any]) -> Any:
    return new_redis().start()


@pytest.fixture
def redis(shared_redis: Any) -> Any:
    """The Redis of both servers. A test may kill it; the servers find it again."""
    return shared_redis.start()


@pytest.fixture(scope="module")
def servers(shared_redis: Any, serve: Callable[..., Any]) -> list[Any]:
    """A Socket.IO server of each kind. They start while the browser does."""
    return [serve(kind, shared_redis) for kind in ("async", "threads")]


@pytest.fixture(scope="module")
def tabs(servers: list[Any], browser: Browser) -> tuple[Tab, Tab]:
    """A page on each server."""
    context = browser.new_context()
    one, other = (Tab(context.new_page(), server.url) for server in servers)
    return one, other


@pytest.fixture
def publish(scripted: Callable[..., Deployment], browser_client: bytes, redis: Any) -> Callable[..., Deployment]:
    """Return a function that mounts the plugin, with what its model says, on the gateway that serves the pages."""

    def make(*scripts: Any, **section: Any) -> Deployment:
        return scripted(
            *scripts,
            gateway=Pages(browser_client),
            api_keys=KEY,
            openai_api_key="sk-test",
            messaging_url=redis.messaging_url,
            sections={"socketio": {**SECTION, **section}},
        )

    return make


def pieces(chance: random.Random, count: int = 60) -> list[str]:
    return ["".join(chance.choices(ALPHABET, k=chance.randint(1, 12))) for _ in range(count)]


def test_pages_show_what_the_model_said(publish: Callable[..., Deployment], tabs: tuple[Tab, Tab]) -> None:
    """Byte for byte, on servers of both kinds, whichever page asks."""
    said = [pieces(random.Random(seed)) for seed in range(3)]
    deployed = publish(*said)
    one, other = (tab.open(deployed) for tab in tabs)
    for asking, text in zip((one, other, one), said, strict=True):
        run = asking.ask()
        one.assert_shown(run, "".join(text))
        other.assert_shown(run, "".join(text))


def test_a_page_in_two_rooms_hears_a_message_once(publish: Callable[..., Deployment], tabs: tuple[Tab, Tab]) -> None:
    """One message goes to all rooms; a server sends it once to whoever sits in several."""
    said = pieces(random.Random(1))
    deployed = publish(said)
    both, one = tabs[0].open(deployed, "news", "sports"), tabs[1].open(deployed, "sports")
    run = both.ask()
    both.assert_shown(run, "".join(said))
    one.assert_shown(run, "".join(said))
    assert both.messages() == one.messages()


def test_a_namespace_of_its_own(publish: Callable[..., Deployment], tabs: tuple[Tab, Tab]) -> None:
    """Pages in the same room of another namespace hear nothing of it."""
    deployed = publish("in a room of its own", namespace="/chat")
    inside, outside = tabs[0].open(deployed, namespace="/chat"), tabs[1].open(deployed)
    inside.assert_shown(inside.ask(), "in a room of its own")
    assert outside.messages() == []


def test_redis_is_killed_in_mid_run(publish: Callable[..., Deployment], tabs: tuple[Tab, Tab], redis: Any) -> None:
    """What the model says meanwhile comes to all once Redis is back and the servers listen: no hole, no doubling."""
    gate, after = Gate(), Gate()
    said = pieces(random.Random(3))
    deployed = publish([*said[:20], gate, *said[20:40], after, *said[40:]])
    one, other = (tab.open(deployed) for tab in tabs)
    run = one.ask()
    before = "".join(said[:20])
    one.wait_for_text(before)
    other.wait_for_text(before)

    redis.kill()
    gate.release()
    after.wait_reached()
    assert one.text() == other.text() == before
    redis.start()
    after.release()

    one.assert_shown(run, "".join(said))
    other.assert_shown(run, "".join(said))


def test_redis_is_down_at_the_start(publish: Callable[..., Deployment], tabs: tuple[Tab, Tab], redis: Any) -> None:
    """The run exists, its messages wait; the pages have all of it once Redis is there."""
    gate = Gate()
    deployed = publish(["all ", gate, "of it"])
    one, other = (tab.open(deployed) for tab in tabs)
    redis.kill()
    run = one.ask()
    gate.wait_reached()
    assert one.messages() == other.messages() == []
    redis.start()
    gate.release()
    one.assert_shown(run, "all of it")
    other.assert_shown(run, "all of it")


def test_a_redis_that_refuses_us_fails_the_run(
    scripted: Callable[..., Deployment], new_redis: Callable[..., Any]
) -> None:
    """At once, and the caller who looks is told what is wrong."""
    redis = new_redis("--requirepass", "right").start()
    deployed = scripted("never heard", api_keys=KEY, messaging_url=redis.messaging_url)
    run = deployed.start()
    headers = {"X-Thread-Id": run["threadId"]}

    def found() -> Any:
        told = deployed.get(f"/runs/{run['runId']}", headers=headers).json()
        return told if told["status"] == "failed" else None

    error = deployed.gateway.wait_for(found)["error"]
    assert error["code"] == "delivery_failed"
    assert "check the messaging URL's user" in error["message"]
