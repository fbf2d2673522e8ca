"""Plugins made of functions, and the runs and calls they are shown."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bf_plugin import testing
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.values import Delta, Outcome, Run, ToolCall, ToolResult, Usage

T = TypeVar("T")


PATIENCE = 10
Setup = Callable[..., HookCalls]


def plugin_of(*functions: Any) -> types.SimpleNamespace:
    """Make a plugin whose hooks are these functions."""
    return types.SimpleNamespace(**{function.__name__: function for function in functions})


def new_run() -> Run:
    return testing.new_run(tools=[{"type": "function", "name": "listed", "parameters": {}}])


def new_call(name: str = "add", timeout: float = PATIENCE, **arguments: Any) -> ToolCall:
    return ToolCall(id="call_1", name=name, arguments=arguments, idempotency_key="key", timeout=timeout)


def outcome() -> Outcome:
    return Outcome(status="completed", finish_reason="stop", usage=Usage(), text="")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own."""
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def answer(calls: HookCalls, call: ToolCall | None = None) -> ToolResult:
    return run(calls.on_tool_call(new_run(), call or new_call()))


@hookimpl
def shout(run: Run, delta: Delta) -> None:
    delta.text = delta.text.upper()


shout.__name__ = "on_delta"


def tool(result: Any) -> Callable[..., Any]:
    """Make an `on_tool_call` that answers `add`."""

    @hookimpl
    def on_tool_call(run: Run, call: ToolCall) -> Any:
        if call.name != "add":
            return None
        return result() if callable(result) else result

    return on_tool_call


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail
