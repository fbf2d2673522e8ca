"""The test kit as authors of plugins use it: its fixtures, its chaos, its failures."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from bf_plugin import Delta, Outcome, PluginContext, Run, RunDraft, Toolbox, hookimpl
from bf_plugin.errors import ContextError, ProviderError
from bf_plugin.testing import Deployment, Gate, Site, assert_events, call, text_of
from bf_plugin.testing.provider import text

Deploy = Callable[..., Deployment]


class Shout:
    """A plugin with memory: it makes text loud, and counts runs."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context
        self.ended: list[str] = []
        self.replayed: list[str] = []

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        run.metadata["number"] = str(self.context.store.increment("runs"))

    @hookimpl
    def on_delta(self, run: Run, delta: Delta) -> None:
        if delta.replay:
            self.replayed.append(delta.text)
        delta.text = delta.text.upper()

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        self.ended.append(f"{run.metadata['number']}: {outcome.text}")


# a scripted engine ---------------------------------------------------------------------------------------------------


def test_a_scripted_model_needs_no_provider(scripted: Deploy) -> None:
    """The whole way of a run, tools and a second step included, over HTTP, without a provider."""
    tools = Toolbox("shop", offer="always")

    @tools.tool()
    def price(article: str) -> int:
        """Get the price."""
        return {"apple": 3}[article]

    deployed = scripted(["Let me see. ", call("price", {"article": "apple"})], "It is 3.", plugins=[tools, Shout])

    run = deployed.start("What is an apple?")
    events = deployed.events(run)

    assert_events(
        events, "threadInfo delta+ function_call delta+ end", text="LET ME SEE. IT IS 3.", finish_reason="stop"
    )
    assert text_of(events) == deployed.text(run)
    with pytest.raises(RuntimeError, match="its engine was given"):
        assert deployed.provider


def test_a_scripted_model_fails_and_refuses(scripted: Deploy) -> None:
    """An exception ends a step, as a first piece the start."""
    failing = scripted(["so far", ProviderError("the model is tired", code="server_error")])
    run = failing.start()
    assert_events(failing.events(run), "threadInfo delta+ error end", text="so far", error="server_error")

    refusing = scripted([ProviderError("no such model", status=404)])
    assert refusing.refused(400, refusing.body())["message"] == "the provider refused the request: no such model"


def test_a_scripted_model_waits_at_a_gate(scripted: Deploy) -> None:
    """A test looks around, or stops the run, in the middle of a text."""
    gate = Gate()
    deployed = scripted(["one ", gate, "two"], plugins=[Shout])
    run = deployed.start()
    deployed.wait_for_text(run, "ONE ")
    gate.wait_reached()

    assert deployed.stop(run)["status"] == "cancelled"

    assert_events(deployed.events(run), "threadInfo delta end", text="ONE ", finish_reason="cancelled")


OUTSIDE = """
    from bf_plugin.testing import assert_events

    def test_played(scripted, deploy, deployed, plugin_context, site):
        scripted("Hello").poll()

    def test_too_many(scripted):
        scripted("Hello", "and more").poll()

    def test_too_few(scripted):
        scripted().start()

    def test_events(scripted):
        deployed = scripted("Hello")
        assert_events(deployed.events(deployed.start()), "threadInfo error end")
"""


def test_the_fixtures_are_there_wherever_the_package_is(tmp_path: Path) -> None:
    """In a project of its own, without a conftest; scripts that were not played, or are missing, fail the test."""
    (tmp_path / "test_outside.py").write_text(textwrap.dedent(OUTSIDE))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rEf", "test_outside.py"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    assert "2 failed, 2 passed, 2 errors" in done.stdout, done.stdout
    assert "AssertionError: 1 script(s) were never asked for, the first: ['and more']" in done.stdout
    assert "AssertionError: the model was asked more often than scripted: step 1 has no script" in done.stdout
    assert "seq 2 is delta, where 'threadInfo error end' has error" in done.stdout


# chaos ---------------------------------------------------------------------------------------------------------------


def test_a_restart_in_mid_text(deploy: Deploy) -> None:
    """The run is taken over: its text is replayed to a new plugin, the page sees it once, the store went on."""
    made: list[Shout] = []

    def factory(context: PluginContext) -> Shout:
        made.append(Shout(context))
        return made[-1]

    gate = Gate()
    deployed = deploy(plugins=[factory])
    deployed.provider.script(text("once upon ", gate, "a time"), "again")
    run = deployed.start()
    deployed.wait_for_text(run, "ONCE UPON ")

    deployed.restart()
    gate.release()

    assert_events(deployed.events(run), "threadInfo delta+ end", text="ONCE UPON A TIME")
    again = deployed.start("More", thread_id=run["threadId"])
    assert_events(deployed.events(again), text="AGAIN")
    deployed.gateway.wait_for(lambda: len(made[1].ended) == 2)
    assert "".join(made[1].replayed) == "once upon "
    assert made[0].ended == []
    assert made[1].ended == ["1: ONCE UPON A TIME", "2: AGAIN"]


def test_a_restart_with_a_scripted_model(scripted: Deploy) -> None:
    """A script goes on where the page is."""
    gate = Gate()
    deployed = scripted(["once upon ", gate, "a time"], plugins=[Shout])
    run = deployed.start()
    deployed.wait_for_text(run, "ONCE UPON ")
    deployed.restart()
    gate.release()
    assert_events(deployed.events(run), "threadInfo delta+ end", text="ONCE UPON A TIME")


@pytest.mark.parametrize("fault", [("status", 500), ("hang", None), ("drop", None)])
def test_a_gateway_that_fails(scripted: Deploy, fault: tuple[str, float | None]) -> None:
    """It answers 500, hangs or drops the connection: the message comes again, the page sees it once."""
    deployed = scripted("Hello", plugins=[Shout])
    deployed.gateway.fault(*fault, delivered=True)  # type: ignore[arg-type]
    run = deployed.start()
    if fault[0] == "hang":
        deployed.gateway.wait_for(lambda: deployed.gateway.attempts)
        deployed.gateway.release()
    assert_events(deployed.events(run), "threadInfo delta+ end", text="HELLO")


def test_a_provider_that_drops_its_stream(deployed: Deployment) -> None:
    """The engine goes on with the response; hooks and page do not notice."""
    deployed.provider.script(text("one ", "two ", "three"))
    deployed.provider.fault("stream_drops", on="create", after=5, times=1)
    assert_events(deployed.events(deployed.start()), "threadInfo delta+ end", text="one two three")
    assert [request.operation for request in deployed.provider.requests].count("resume") == 1


def test_a_crash_and_a_takeover(site: Site) -> None:
    """A server is killed, another one goes on: what is installed in this environment runs in both."""
    gate = Gate()
    site.provider.script(text("once upon ", gate, "a time"))
    first = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    run = site.start(first.url)
    site.gateway.wait_for(lambda: site.gateway.text(run["runId"]))

    first.kill()
    site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    gate.release()

    assert_events(site.events(run), "threadInfo delta+ end", text="once upon a time")


# contexts ------------------------------------------------------------------------------------------------------------


def test_contexts_for_factories(plugin_context: Callable[..., PluginContext]) -> None:
    """Settings as given; a store in memory, one for each; the loop of a mount, with its rules."""
    context, other = plugin_context(section={"url": "x"}), plugin_context(name="other")
    assert (context.name, context.section, other.name, other.section) == ("plugin", {"url": "x"}, "other", {})
    context.store.put("a", 1)
    assert other.store.get("a") is None

    async def on_loop() -> int:
        with pytest.raises(ContextError, match="event loop"):
            context.store.get("a")
        return 5

    assert context.run_async(on_loop()) == 5
