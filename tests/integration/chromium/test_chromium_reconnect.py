"""The shipped handler in Chromium against the plugin's endpoint: messages that never come, pages that come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from bf_plugin.demo.gateway import DEMO_KEY, DemoGateway
from bf_plugin.testing.deployment import Deployment
from bf_plugin.testing.provider import Gate, Reply, call, reply, text

PIECES = [f"{number} 🦄é漢\u2028 " for number in range(150)]
WHOLE = "".join(PIECES)
TOOL = {"type": "function", "function": {"name": "ui_confirm", "parameters": {"type": "object", "properties": {}}}}

OPEN = """async ({ key, tools, run, socket, drop, lostCall }) => {
  await import("/browser/handler.js");
  document.body.textContent = "";
  window.ends = [];
  window.heard = 0;
  window.assistant = new BFAssistant.Assistant({
    apiKey: key, channels: ["c"], actionName: "show", payload: { tools },
    tools: { confirm: () => new Promise(() => {}) },
    onText: (text) => { document.body.textContent = text; },
    onEnd: ({ finishReason, complete }) => ends.push([finishReason, complete]),
    ...(lostCall ? { lostCall: ({ name }) => `${name}: yes` } : {}),
    timing: { quiet: 500, call: 500 },
  });
  if (socket) {
    const source = new EventSource("/gateway/events?channel=c");
    source.onmessage = (event) => {
      heard += 1;
      if (heard % 5 >= drop) assistant.handleMessage(JSON.parse(event.data));
    };
    await new Promise((opened) => { source.onopen = opened; });
  }
  if (run) await assistant.resume(run);
}"""


class Tab:
    """A page that is not given anything by its gateway but what it is sent while it listens."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url

    def open(
        self, *, run: Any = None, socket: bool = True, drop: int = 0, tools: Any = (), lost_call: bool = False
    ) -> None:
        """Load the page, which loses `drop` of 5 messages, and let it take up `run`."""
        self.page.goto(self._url + "/hello")
        known = {"key": DEMO_KEY, "run": run, "socket": socket, "drop": drop}
        self.page.evaluate(OPEN, {**known, "tools": list(tools), "lostCall": lost_call})

    def start(self) -> None:
        self.page.evaluate("() => assistant.start('Go').then(() => {})")

    def wait_for_text(self, length: int) -> None:
        self.page.wait_for_function("length => document.body.textContent.length >= length", arg=length)

    def snapshot(self) -> Any:
        return self.page.evaluate("() => assistant.run.snapshot()")

    def end(self) -> tuple[str, list[Any]]:
        """Wait for the end; return the text that is shown, and how it ended."""
        self.page.wait_for_function("() => ends.length > 0", timeout=20_000)
        shown, (end,) = self.page.evaluate("() => [document.body.textContent, ends]")
        return shown, end


@pytest.fixture
def deployed(deploy: Callable[..., Deployment]) -> Deployment:
    deployed = deploy(gateway=DemoGateway({}), openai_api_key="sk-test", max_waiters=2)
    deployed.provider.brain = story
    return deployed


@pytest.fixture
def tab(browser: Browser, deployed: Deployment) -> Iterator[Tab]:
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield Tab(page, deployed.url)
    page.close()
    assert problems == []


def story(_: Any) -> Reply:
    return reply(text(*PIECES), delay=0.01)


@pytest.mark.parametrize("drop", [1, 3, 5])
def test_messages_that_never_come_are_fetched(tab: Tab, drop: int) -> None:
    """Some, most or all messages lost on their way to the page: the text is whole, and shown once."""
    tab.open(drop=drop)
    tab.start()
    assert tab.end() == (WHOLE, ["stop", True])


@pytest.mark.parametrize("socket", [True, False], ids=["messages go on", "no messages"])
def test_a_reload_in_mid_stream(tab: Tab, socket: bool) -> None:
    """The gateway replays nothing; the page goes on from its snapshot to the end."""
    tab.open()
    tab.start()
    tab.wait_for_text(50)
    known = tab.snapshot()
    assert len(known["text"]) < len(WHOLE)
    tab.open(run=known, socket=socket)
    assert tab.end() == (WHOLE, ["stop", True])


def test_a_reload_after_the_end(tab: Tab, deployed: Deployment) -> None:
    """What was said while nobody looked is there when the page comes back, and nothing is asked any more."""
    tab.open()
    tab.start()
    tab.wait_for_text(50)
    known = tab.snapshot()
    tab.page.goto("about:blank")
    deployed.events(known)
    tab.open(run=known, socket=False)
    assert tab.end() == (WHOLE, ["stop", True])


def test_a_streams_place_is_not_needed(tab: Tab, deployed: Deployment) -> None:
    """When the server has no thread left for streams, the page polls."""
    run = deployed.http.post(
        deployed.url + "/stream/create/assistants",
        json={**deployed.body(), "apiKey": DEMO_KEY},
        timeout=30,
    ).json()
    ids = {"threadId": run["threadId"], "runId": run["runId"]}
    path, headers = f"/runs/{run['runId']}/events", {"X-Thread-Id": run["threadId"], "Accept": "text/event-stream"}
    held = [deployed.get(path, headers=headers, stream=True) for _ in range(2)]
    assert [one.status_code for one in held] == [200, 200]
    tab.open(run=ids, socket=False)
    assert tab.end() == (WHOLE, ["stop", True])
    for one in held:
        one.close()


def test_a_page_that_comes_back_answers_its_tool_call(tab: Tab, deployed: Deployment) -> None:
    """The run waits for a page that was reloaded under its question; the page that comes back takes it up."""
    deployed.provider.script([call("ui_confirm", {})], "as you wish")
    tab.open(tools=[TOOL])
    tab.start()
    tab.page.wait_for_function("() => assistant.run?.calls[0]?.functions")
    tab.open(run=tab.snapshot(), socket=False, lost_call=True)
    assert tab.end() == ("as you wish", ["stop", True])
    assert "ui_confirm: yes" in str(deployed.asked[-1]["input"])


def test_a_call_that_never_came_is_answered(tab: Tab, deployed: Deployment) -> None:
    """A page that learns of a call only by asking says so, and the run does not wait for its timeout."""
    deployed.provider.script([call("ui_confirm", {})], "never mind")
    tab.open(drop=5, tools=[TOOL])
    tab.start()
    assert tab.end() == ("never mind", ["stop", True])
    assert "lost this call" in str(deployed.asked[-1]["input"])


def test_a_run_that_was_deleted_is_given_up(tab: Tab, deployed: Deployment) -> None:
    """The page that asks for a run which is no more shows what it has, as incomplete."""
    gate = Gate()
    deployed.provider.script(text("one ", gate, "two"))
    tab.open()
    tab.start()
    tab.wait_for_text(4)
    known = tab.snapshot()
    tab.page.goto("about:blank")
    gate.release()
    deployed.events(known)
    thread = f"/stream/create/assistants/threads/{known['threadId']}"
    answer = deployed.http.delete(deployed.url + thread, headers={"X-Api-Key": DEMO_KEY}, timeout=30)
    assert answer.status_code == 200
    tab.open(run=known, socket=False)
    shown, end = tab.end()
    assert (shown, end) == ("", ["unknown", False])
    assert tab.snapshot()["text"] == "one "
