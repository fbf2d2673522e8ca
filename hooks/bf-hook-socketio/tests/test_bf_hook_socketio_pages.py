"""The whole way: a run, its messages over Redis and a Socket.IO server, the shipped handler in Chromium as the judge.

The handler may not fetch what it missed here (`fetchMissed` knows nothing), so what it shows came over Socket.IO.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bf_plugin.testing import Deployment, Gate, RecordingGateway
from bf_plugin.testing.provider import text

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

KEY = "BFAPI_demo"
CHROMIUM = shutil.which("chromium")
SECTION = {"room_prefix": "channel:", "event": "assistant"}
ALPHABET = [*"abcdefghij \n\"\\{}<>&'", "é", "e\u0301", "漢", "\u2028", "🦄", "👩‍👩‍👧‍👦", "\U0010ffff"]

OPEN = """async ({ url, channels, namespace, key }) => {
  window.runs = {};
  window.messages = 0;
  window.assistant = new BFAssistant.Assistant({
    apiKey: key, channels, actionName: "judge", fetchMissed: async () => null,
    onText: (text, run) => { document.body.textContent = text; },
    onEnd: ({ finishReason, complete }, run) => {
      runs[run.runId] = { finishReason, complete, bytes: [...new TextEncoder().encode(run.text)] };
    },
  });
  window.socket = io(url + namespace, { auth: { channels } });
  socket.on("assistant", (message) => { messages += 1; assistant.handleMessage(message); });
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def deployed(deploy: Callable[..., Deployment], browser_client: bytes, new_redis: Callable[..., Any]) -> Deployment:
    """The plugin, its messages going to a Redis that is down yet."""
    redis = new_redis()
    made = deploy(
        gateway=Pages(browser_client),
        api_keys=KEY,
        openai_api_key="sk-test",
        messaging_url=redis.messaging_url,
        sections={"socketio": SECTION},
    )
    made.redis = redis  # type: ignore[attr-defined]
    return made


def open_page(browser: Browser, deployed: Deployment, url: str, *channels: str, namespace: str = "/") -> Page:
    page = browser.new_page()
    page.goto(deployed.url + "/")
    page.evaluate(OPEN, {"url": url, "channels": channels or ["news"], "namespace": namespace, "key": KEY})
    return page


def ask(page: Page) -> str:
    run: str = page.evaluate("() => assistant.start('Say it').then((run) => run.runId)")
    return run


def shown(page: Page, run: str) -> tuple[str, bool, bytes]:
    """Return finish reason, completeness and text of a run, once the page has its end."""
    page.wait_for_function("run => run in runs", arg=run, timeout=60_000)
    end = page.evaluate("run => runs[run]", run)
    return end["finishReason"], end["complete"], bytes(end["bytes"])


def pieces(chance: random.Random, count: int = 60) -> list[str]:
    return ["".join(chance.choices(ALPHABET, k=chance.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("kind", ["async", "threads"])
def test_a_page_shows_what_the_model_said(
    deployed: Deployment, serve: Callable[..., Any], browser: Browser, kind: str
) -> None:
    """Byte for byte, over both kinds of servers; a page in two of the run's rooms hears each message once."""
    redis = deployed.redis.start()  # type: ignore[attr-defined]
    page = open_page(browser, deployed, serve(kind, redis).url, "news", "sports")
    chance = random.Random(7)
    for _ in range(3):
        said = pieces(chance)
        deployed.provider.script(text(*said))
        run = ask(page)
        assert shown(page, run) == ("stop", True, "".join(said).encode())
    sealed = page.evaluate("() => assistant.run.next - 1")
    assert sealed > 2
    page.close()


def test_a_page_in_two_rooms_hears_a_message_once(
    deployed: Deployment, serve: Callable[..., Any], browser: Browser
) -> None:
    """One message goes to all rooms; the server sends it once to whoever sits in several."""
    redis = deployed.redis.start()  # type: ignore[attr-defined]
    server = serve("async", redis)
    both = open_page(browser, deployed, server.url, "news", "sports")
    one = open_page(browser, deployed, server.url, "sports")
    deployed.provider.script(text(*pieces(random.Random(1))))
    run = ask(both)
    assert shown(both, run) == shown(one, run)
    assert both.evaluate("messages") == one.evaluate("messages")
    both.close()
    one.close()


def test_a_namespace_of_its_own(
    deploy: Callable[..., Deployment], deployed: Deployment, serve: Callable[..., Any], browser: Browser
) -> None:
    """Pages of another namespace hear nothing of it."""
    redis = deployed.redis.start()  # type: ignore[attr-defined]
    server = serve("async", redis, "/chat")
    other = deploy(
        gateway=deployed.gateway,
        api_keys=KEY,
        openai_api_key="sk-test",
        messaging_url=redis.messaging_url,
        sections={"socketio": {**SECTION, "namespace": "/chat"}},
    )
    other.provider.script(text("in a room of its own"))
    page = open_page(browser, other, server.url, namespace="/chat")
    assert shown(page, ask(page)) == ("stop", True, b"in a room of its own")
    page.close()


def test_redis_is_killed_in_mid_run(deployed: Deployment, serve: Callable[..., Any], browser: Browser) -> None:
    """What the model says meanwhile comes once Redis is back and the server listens again: no hole, no doubling."""
    redis = deployed.redis.start()  # type: ignore[attr-defined]
    page = open_page(browser, deployed, serve("async", redis).url)
    gate, after = Gate(), Gate()
    said = pieces(random.Random(3))
    deployed.provider.script(text(*said[:20], gate, *said[20:40], after, *said[40:]))
    run = ask(page)
    before = "".join(said[:20])
    page.wait_for_function("text => document.body.textContent === text", arg=before)

    redis.kill()
    gate.release()
    after.wait_reached()
    assert page.evaluate("document.body.textContent") == before
    redis.start()
    after.release()

    assert shown(page, run) == ("stop", True, "".join(said).encode())
    page.close()


def test_redis_is_down_at_the_start(deployed: Deployment, serve: Callable[..., Any], browser: Browser) -> None:
    """The run exists, its messages wait; the page has all of it once Redis is there."""
    redis = deployed.redis  # type: ignore[attr-defined]
    page = open_page(browser, deployed, serve("async", redis).url)
    gate = Gate()
    deployed.provider.script(text("all ", gate, "of it"))
    run = ask(page)
    gate.wait_reached()
    assert page.evaluate("messages") == 0
    redis.start()
    gate.release()
    assert shown(page, run) == ("stop", True, b"all of it")
    page.close()


def test_a_redis_that_refuses_us_fails_the_run(
    deploy: Callable[..., Deployment], new_redis: Callable[..., Any]
) -> None:
    """At once, and the caller who looks is told what is wrong."""
    redis = new_redis("--requirepass", "right").start()
    deployed = deploy(api_keys=KEY, messaging_url=redis.messaging_url)
    deployed.provider.script("never heard")
    run = deployed.start()
    headers = {"X-Thread-Id": run["threadId"]}

    def found() -> Any:
        told = deployed.get(f"/runs/{run['runId']}", headers=headers).json()
        return told if told["status"] == "failed" else None

    error = deployed.gateway.wait_for(found)["error"]
    assert error["code"] == "delivery_failed"
    assert "check the messaging URL's user" in error["message"]
