"""The plugin: offers the declared tools, and answers their calls by running scripts."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import jsonschema

from bf_hook_filemaker import settings
from bf_hook_filemaker.callback import Callback
from bf_hook_filemaker.dataapi import DataApi
from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure
from bf_plugin import Run, RunDraft, ToolCall, ToolOptions, ToolResult, hookimpl
from bf_plugin.items import FunctionTool

_GRACE = 5.0
"""Seconds by which the gateway waits longer than a tool may take, so that the tool itself can say what happened."""

_NOTHING = "The script ran, and returned nothing."
_LONGEST_PROBLEM = 500

_log = logging.getLogger(__name__)


class FileMaker:
    """What the settings declare. Calls come in worker threads, many at a time; it keeps no state of its own."""

    def __init__(self, section: settings.Section) -> None:
        self._section = section
        self._connections = {
            name: connect(connection, max_bytes=section.max_bytes) for name, connection in section.connections.items()
        }
        self._validators = {
            name: jsonschema.Draft202012Validator(tool.parameters) for name, tool in section.tools.items()
        }
        self._options = {
            name: ToolOptions(timeout=self.timeout(tool) + _GRACE, idempotent=tool.idempotent)
            for name, tool in section.tools.items()
        }

    def bf_tools(self) -> dict[str, ToolOptions]:
        """Return the tools it answers, with how they want to be called."""
        return self._options

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        """Add the tools that are to be offered always, where the app has a connection and the caller listed none."""
        listed = {tool.get("name") for tool in run.tools}
        for name, tool in self._section.tools.items():
            offered = (tool.offer or self._section.offer) == "always" and name not in listed
            if offered and self._section.connection_of(tool, run.app) is not None:
                run.tools.append(definition(name, tool))

    @hookimpl
    def on_tool_call(self, run: Run, call: ToolCall) -> ToolResult | None:
        """Run the script of a call, if the tool is one of ours and the app has a connection for it."""
        tool = self._section.tools.get(call.name)
        if tool is None or (name := self._section.connection_of(tool, run.app)) is None:
            return None
        if problem := self._problem(call):
            return ToolResult(f"Error: {call.name}: the arguments do not fit: {problem}", is_error=True)
        parameter = {
            "tool": call.name,
            "arguments": dict(call.arguments),
            "idempotencyKey": call.idempotency_key,
            "runId": run.id,
            "app": run.app,
        }
        try:
            return ToolResult(result(self._connections[name].call(tool, parameter, Deadline(self.timeout(tool)))))
        except Failure as failure:
            level = logging.WARNING if failure.advice else logging.INFO
            _log.log(level, "tool %s on connection %s: %s [run=%s]", call.name, name, failure.logged(), run.id)
            return ToolResult(failure.told(call.name, idempotent=tool.idempotent), is_error=True)

    def close(self) -> None:
        """Log out everywhere."""
        for connection in self._connections.values():
            connection.close()

    def timeout(self, tool: settings.Tool) -> float:
        """Return the seconds a call of a tool may take."""
        return tool.timeout or self._section.timeout

    def _problem(self, call: ToolCall) -> str:
        """Return what is wrong with the arguments, "" if nothing is."""
        errors = list(self._validators[call.name].iter_errors(dict(call.arguments)))
        said = (f"{'.'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message}" for error in errors[:5])
        return "; ".join(said)[:_LONGEST_PROBLEM]


def connect(connection: settings.DataApi | settings.Callback, *, max_bytes: int) -> DataApi | Callback:
    """Return the connection, which does nothing before its first call."""
    if isinstance(connection, settings.DataApi):
        return DataApi(connection, max_bytes=max_bytes)
    return Callback(connection, max_bytes=max_bytes)


def definition(name: str, tool: settings.Tool) -> FunctionTool:
    """Return a tool as a model is shown it."""
    parameters = json.loads(json.dumps(tool.parameters))  # a copy: other plugins may change the draft
    return {"type": "function", "name": name, "description": tool.description, "parameters": parameters}


def result(text: str) -> Any:
    """Return what a script returned: the value where it is JSON, else its text."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite) if text else _NOTHING
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("too large for a number")
    return number
