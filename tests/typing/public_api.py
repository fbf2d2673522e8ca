"""What users of the package write, for mypy to check; nothing here runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import assert_type

from bf_plugin import (
    Application,
    Delta,
    Outcome,
    PluginContext,
    PluginStore,
    Run,
    RunDraft,
    RunRejected,
    Settings,
    StopRun,
    Toolbox,
    ToolCall,
    ToolResult,
    Usage,
    hookimpl,
    in_thread,
    mount,
)
from bf_plugin.engines.port import Engine
from bf_plugin.testing import Conformance, Deployment, MemoryStore, ScriptedEngine, assert_events, check_plugin


def gateway(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


tools = Toolbox("typed", offer="always")


@tools.tool(timeout=5, idempotent=True)
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


@tools.tool()
async def later(run: Run, text: str) -> str:
    """Say it later."""
    return f"{run.id}: {text}"


# A tool stays the function it was.
assert_type(double(2), int)


@hookimpl
def before_run(run: RunDraft) -> None:
    run.instructions = f"{run.instructions or ''} Be brief."
    if run.app == "trial":
        raise RunRejected(403, "not for the trial", retry_after=60)


@in_thread
@hookimpl(trylast=True)
def on_delta(run: Run, delta: Delta) -> None:
    assert_type(delta.text, str)
    if delta.final and not run.scratch:
        raise StopRun("content_filter")


@hookimpl
def on_tool_call(run: Run, call: ToolCall) -> ToolResult | Awaitable[ToolResult] | None:
    return ToolResult({"sum": call.arguments["a"]}) if call.name == "add" else None


@hookimpl
def on_end(run: Run, outcome: Outcome) -> None:
    assert_type(outcome.usage, Usage)
    assert_type(outcome.usage.total_tokens, int)


async def name() -> str:
    return "name"


def create_plugin(context: PluginContext) -> Toolbox:
    store: PluginStore = context.store
    assert_type(store.increment("runs", ttl=60), float)
    store.put("last", {"app": "a"}, ttl=3600)
    assert_type(context.run_async(name(), timeout=5), str)
    return tools


# The stores of the test kit are stores, and its engine is an engine.
stores: list[PluginStore] = [MemoryStore()]
engine: Engine = ScriptedEngine("Hello")


def test_the_fixtures_have_types(scripted: Callable[..., Deployment]) -> None:
    deployed = scripted("Hello")
    assert_events(deployed.events(deployed.start("Hi")), "threadInfo delta+ end", text="Hello")
    assert_type(check_plugin(create_plugin), tuple[Conformance, ...])


application = mount(gateway, name="portal", settings=Settings(model="gpt-test"), plugins=[tools])
assert_type(application, Application)
application.start()
application.close()
mount(application)
