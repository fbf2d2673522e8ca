"""Each character once: the shipped handler in Chromium shows what the provider generated, whatever the gateway does."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from bf_plugin.demo.gateway import DEMO_KEY, DemoGateway
from bf_plugin.testing.deployment import Deployment
from bf_plugin.testing.gateway import GatewayServer
from bf_plugin.testing.provider import ResponseRecord, reply, text

RUNS = 10
"""For each of the two messengers."""

ALPHABET = [
    *"abcdefghij klmnop \n\t\"\\{}<>&'",
    "é",
    "e\u0301",
    "ß",
    "漢",
    "\u2028",
    "\ufeff",
    "🦄",
    "𝒳",
    "👩‍👩‍👧‍👦",
    "🇺🇳",
    "\U0010ffff",
]

OPEN = """async ({ key, channel }) => {
  await import("/browser/handler.js");
  window.stopAt = null;
  window.ends = {};
  const stopIfDue = () => {
    if (stopAt === null || document.body.textContent.length < stopAt) return;
    stopAt = null;
    assistant.stop();
  };
  window.assistant = new BFAssistant.Assistant({
    apiKey: key, channels: [channel], actionName: "judge",
    onText: (text) => { document.body.textContent = text; stopIfDue(); },
    onEnd: ({ finishReason, complete }, run) => {
      const bytes = [...new TextEncoder().encode(document.body.textContent)];
      ends[run.runId] = { finishReason, complete, bytes, length: document.body.textContent.length };
    },
  });
  window.ask = async (prompt, stop) => {
    document.body.textContent = "";
    stopAt = stop;
    const started = assistant.start(prompt);
    stopIfDue();
    return (await started).runId;
  };
  const source = new EventSource(`/gateway/events?channel=${channel}`);
  source.onmessage = (event) => assistant.handleMessage(JSON.parse(event.data));
  await new Promise((opened) => { source.onopen = opened; });
}"""


@pytest.fixture(params=["host", "http"])
def deployed(request: pytest.FixtureRequest, deploy: Callable[..., Deployment]) -> Iterator[Deployment]:
    """The plugin delivering in-process, or over HTTP."""
    gateway = DemoGateway({})
    if request.param == "host":
        yield deploy(gateway=gateway, openai_api_key="sk-test")
        return
    with GatewayServer(gateway) as messaging:
        yield deploy(gateway=gateway, openai_api_key="sk-test", api_keys=DEMO_KEY, messaging_url=messaging.url)


def spoil(deployed: Deployment) -> None:
    """Make the gateway slow, forgetful and repetitive."""
    gateway = deployed.gateway
    gateway.fault("delay", (0.0, 0.06), times=None, chance=0.5)
    gateway.fault("status", 503, times=None, chance=0.05)
    gateway.fault("status", 500, times=None, chance=0.05, delivered=True)
    gateway.fault("drop", times=None, chance=0.03)
    gateway.fault("drop", times=None, chance=0.03, delivered=True)
    gateway.fault("duplicate", times=None, chance=0.15)


def chunks(chance: random.Random) -> list[str]:
    """Return a text as the provider will stream it."""
    pieces = []
    for _ in range(chance.randint(20, 120)):
        pieces.append("".join(chance.choices(ALPHABET, k=chance.randint(1, 14))))
    return pieces


def end_of(page: Page, run_id: str) -> dict[str, Any]:
    page.wait_for_function("run => run in ends", arg=run_id, timeout=60_000)
    end: dict[str, Any] = page.evaluate("run => ends[run]", run_id)
    return end


def check_memory(deployed: Deployment, stopped: ResponseRecord, shown: bytes) -> None:
    """Check what the model was told, in the provider's last request, that it had said in the response `stopped`."""
    last = list(deployed.provider.responses.values())[-1]
    if last.body.get("previous_response_id") == stopped.id:
        # It was complete at the provider before the stop got there: then it is part of the conversation as it is.
        assert stopped.status == "completed"
        return
    spoken = [item for item in last.input if item.get("role") == "assistant"]
    assert "".join(part["text"] for item in spoken for part in item["content"]).encode() == shown


def test_page_shows_what_the_provider_generated(deployed: Deployment, browser: Browser) -> None:
    """Random chunks, slow and failing deliveries, astral characters, stops at random moments: byte for byte the same.

    A stopped answer is what was generated up to the stop, and in the next turn the model is told that it said that.
    """
    seed = int(os.environ.get("JUDGE_SEED") or random.randrange(2**32))
    print(f"JUDGE_SEED={seed}")
    chance = random.Random(seed)
    page = browser.new_page()
    page.goto(deployed.url + "/hello")
    page.evaluate(OPEN, {"key": DEMO_KEY, "channel": "judge"})
    spoil(deployed)
    outcomes = set()
    for number in range(RUNS):
        pieces = chunks(chance)
        whole = "".join(pieces)
        units = len(whole.encode("utf-16-le")) // 2
        stop_at = chance.randint(0, units) if number % 3 else None
        if chance.random() < 0.3:
            deployed.provider.fault("lone_surrogates", times=1)
        deployed.provider.script(reply(text(*pieces), delay=chance.choice([0.0, 0.002, 0.01])))
        run_id = page.evaluate("([prompt, stop]) => ask(prompt, stop)", [f"Run {number}", stop_at])
        end = end_of(page, run_id)
        shown = bytes(end["bytes"])
        response = list(deployed.provider.responses.values())[-1]
        generated = response.text.encode("utf-8", "surrogatepass")  # a stop may come between two halves
        outcomes.add(end["finishReason"])
        assert end["complete"]
        if end["finishReason"] == "stop":
            assert shown == generated == whole.encode()
            continue
        assert end["finishReason"] == "cancelled"
        assert stop_at is not None
        assert generated.startswith(shown)
        assert end["length"] >= stop_at
        deployed.provider.script("Yes.")
        end_of(page, page.evaluate("ask('Go on', null)"))
        check_memory(deployed, response, shown)
    assert outcomes == {"stop", "cancelled"}
    page.close()
