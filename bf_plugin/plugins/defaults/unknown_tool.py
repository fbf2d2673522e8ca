"""The answer to tool calls that nothing else answers: it tells the model what there is instead."""

from __future__ import annotations

from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.values import Run, ToolCall, ToolResult


@hookimpl(trylast=True)
def on_tool_call(run: Run, call: ToolCall) -> ToolResult:
    """Answer with the names of the run's other tools."""
    others = sorted(str(tool["name"]) for tool in run.tools if tool["type"] == "function" and tool["name"] != call.name)
    known = f"The tools are: {', '.join(others)}." if others else "There are no other tools."
    return ToolResult(f"Error: unknown tool {call.name}. {known}", is_error=True)
