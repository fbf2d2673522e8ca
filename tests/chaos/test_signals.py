"""Stops and pages' answers that reach another process than the one that drives the run: none may be missed.

`BF_CHAOS_SIGNALS` says how many of each are sent; the latencies are printed, with `-s`:

    BF_CHAOS_SIGNALS=1000 pytest -s tests/chaos/test_signals.py
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.fernet import Fernet

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import BrainRequest, Gate, call, reply, text

SIGNALS = int(os.environ.get("BF_CHAOS_SIGNALS", "10"))
MADE_UP_FOR = 0.45
"""Seconds from which on it may have been no wake-up that brought a signal, but the look that is taken at times."""

CONFIRM = {"type": "function", "function": {"name": "ui_confirm", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(params=["local", "postgres"])
def shared(request: pytest.FixtureRequest, site: Site) -> Site:
    """A site whose servers share a database, with either dispatcher."""
    if request.param == "postgres":
        site.environ["BF_DATABASE_URL"] = request.getfixturevalue("postgres_url")
        site.environ["BF_SECRET_KEY"] = Fernet.generate_key().decode()
    site.environ["BF_COALESCE_MS"] = "0"
    return site


def two_servers(site: Site) -> tuple[ServerProcess, ServerProcess]:
    driving, other = (site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0") for _ in range(2))
    assert driving.url != other.url
    return driving, other


def report(what: str, took: list[float], servers: tuple[ServerProcess, ...]) -> None:
    """Print the latencies; assert that no run had to be taken over, which is what ends a run whose driver hears not."""
    took.sort()
    late = sum(seconds >= MADE_UP_FOR for seconds in took)
    p50, p99, most = (took[min(int(len(took) * share), len(took) - 1)] * 1000 for share in (0.5, 0.99, 1.0))
    print(f"\n{len(took)} {what}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {most:.1f} ms; {late} may have been missed")
    for server in servers:
        assert not re.search("taken over|another process took", server.output), server.output


def one_by_one(site: Site, once: Callable[[], float]) -> list[float]:
    """Measure with little on record in the fakes, so that they do not slow down."""
    took: list[float] = []
    for _ in range(SIGNALS):
        site.gateway.clear()
        site.provider.reset()
        took.append(once())
    return took


@pytest.mark.timeout(120 + SIGNALS)
def test_stops_reach_the_driver(shared: Site) -> None:
    """From the request at the other process to `end` at the gateway."""
    servers = driving, other = two_servers(shared)
    never = Gate()
    shared.provider.brain = lambda request: reply(text("so far ", never))

    def stop() -> float:
        run = shared.start(driving.url)
        shared.gateway.wait_for(lambda: shared.gateway.events(run_id=run["runId"], type="delta"))
        began = time.perf_counter()
        assert shared.stop(other.url, run)["status"] == "cancelled"
        assert shared.events(run)[-1]["finish_reason"] == "cancelled"
        return time.perf_counter() - began

    report("stops", one_by_one(shared, stop), servers)


@pytest.mark.timeout(120 + SIGNALS)
def test_answers_reach_the_driver(shared: Site) -> None:
    """From the page's answer at the other process to the question with its output at the provider."""
    servers = driving, other = two_servers(shared)
    shared.provider.brain = _asking

    def answer() -> float:
        run = shared.start(driving.url, tools=[CONFIRM])
        asked = shared.gateway.wait_for(lambda: shared.gateway.actions("llmToolCall"))[0]["options"]["toolCallId"]
        began = time.perf_counter()
        given = shared.post(other.url, "/tool-response", {"toolCallId": asked, "success": True})
        shared.provider.wait_until(lambda: len(shared.provider.requests) > 1)
        took = time.perf_counter() - began
        assert given.json()["status"] == "accepted"
        assert shared.events(run)[-1]["finish_reason"] == "stop"
        return took

    report("answers", one_by_one(shared, answer), servers)


def _asking(request: BrainRequest) -> Any:
    return reply(text("thanks")) if request.outputs else reply(call("ui_confirm", {}))
