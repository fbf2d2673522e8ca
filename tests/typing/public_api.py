"""What users of the package write, for mypy to check; nothing here runs."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from typing_extensions import assert_type

from bf_plugin import (
    Application,
    Delta,
    Outcome,
    PluginContext,
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


def create_plugin(context: PluginContext) -> Toolbox:
    return tools


application = mount(gateway, name="portal", settings=Settings(model="gpt-test"), plugins=[tools])
assert_type(application, Application)
application.start()
application.close()
mount(application)
