"""A browser that watches while the whole deployment is killed and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from bf_plugin.browser import handler_source
from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import Gate, Reply, reply, text

HOSTS = Path(__file__).parents[1] / "hosts"
WORDS = ["é漢", "🦄👩‍👩‍👧‍👦", "\u2028 <b>&amp;</b>", "words"]
PIECES = [f"{number} {word} " for number in range(1, 81) for word in WORDS]
DELAY = 0.01

SHOWN = """() => [...document.querySelectorAll(".message.assistant:last-child .text")]
  .map((part) => part.textContent).join("")"""

FOLLOW = """async ({ base, run }) => {
  window.ends = [];
  window.assistant = new BFAssistant.Assistant({
    base,
    onText: (text) => { document.body.textContent = text; },
    onEnd: (end) => ends.push(end),
  });
  await assistant.resume(run);
}"""


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a context of its own; what it throws fails the test."""
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def story(gate: Gate) -> Callable[[Any], Reply]:
    """Return a model that tells a story, halfway to the gate, so that a kill always comes in mid-stream."""
    half = len(PIECES) // 2
    return lambda _: reply(text(*PIECES[:half], gate, *PIECES[half:]), delay=DELAY)


def serve(site: Site, port: int = 0) -> ServerProcess:
    """Start a gateway that has everything: page, messaging, plugin."""
    command = ["serve", "--app", "page_app:application", "--listen", f"127.0.0.1:{port}"]
    site.environ |= {"BF_MESSAGING_URL": "", "BF_API_KEYS": "", "BF_OPENAI_API_KEY": "sk-test"}
    return site.serve("bf-plugin", *command, cwd=HOSTS)


def port_of(server: ServerProcess) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def ask(page: Page) -> None:
    """Ask for the story, and wait until the answer is on its way."""
    page.get_by_label("Message").fill("Tell me a story")
    page.get_by_label("Message").press("Enter")
    page.wait_for_function(f"() => ({SHOWN})().length > 100")


def generated(site: Site) -> str:
    (response,) = site.provider.responses.values()
    assert response.text == "".join(PIECES)
    return response.text


@pytest.mark.parametrize(
    ("polite", "reload"),
    [(False, False), (True, False), (False, True)],
    ids=["kill -9", "SIGTERM", "kill -9 and reload"],
)
def test_the_page_ends_with_the_full_text(site: Site, page: Page, polite: bool, reload: bool) -> None:
    """Page server, messaging and plugin die at once in mid-stream; in their next life the page gets the rest, once."""
    gate = Gate()
    site.provider.brain = story(gate)
    server = serve(site)
    page.goto(server.url)
    ask(page)

    if polite:
        server.stop()
    else:
        server.kill()
    assert len(page.evaluate(SHOWN)) < len("".join(PIECES))
    gate.release()
    again = serve(site, port_of(server))
    if reload:
        again.wait_for("serving on")
        page.reload()

    expect(page.locator(".message.assistant:not(.running)")).to_be_visible(timeout=60_000)
    assert page.evaluate(SHOWN) == generated(site)
    assert page.locator(".note, .failure").count() == 0


def test_a_page_of_another_origin_follows_without_messages(site: Site, page: Page) -> None:
    """A page that gets no message at all streams a run from its two ids, over a kill -9 of the server it asks."""
    gate = Gate()
    site.provider.brain = story(gate)
    elsewhere = urlsplit(site.environ["BF_MESSAGING_URL"])._replace(path="/hello").geturl()
    site.environ["BF_CORS_ORIGINS"] = site.environ["BF_MESSAGING_URL"]
    server = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    run = site.start(server.url, "Tell me a story")
    page.goto(elsewhere)
    page.evaluate(handler_source())
    ids = {"threadId": run["threadId"], "runId": run["runId"]}
    page.evaluate(FOLLOW, {"base": server.url, "run": ids})
    page.wait_for_function("() => document.body.textContent.length > 100")

    server.kill()
    assert page.evaluate("document.body.textContent.length") < len("".join(PIECES))
    gate.release()
    site.serve("bf-plugin", "serve", "--listen", f"127.0.0.1:{port_of(server)}")

    page.wait_for_function("() => ends.length > 0", timeout=60_000)
    assert page.evaluate("[document.body.textContent, ends[0].finishReason, ends[0].complete]") == [
        generated(site),
        "stop",
        True,
    ]
