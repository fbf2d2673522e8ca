"""Toolbox: a plugin made of functions that a model may call."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bf_plugin.items import FunctionTool
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.values import Run, RunDraft, ToolCall, ToolOptions, ToolResult

if TYPE_CHECKING:
    from bf_plugin.plugins.toolschema import FunctionSchema

Function = TypeVar("Function", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what providers take


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    function: Callable[..., Any]
    schema: FunctionSchema
    definition: FunctionTool
    options: ToolOptions


class Toolbox:
    """Functions as tools, each with its JSON schema from its signature and docstring.

    It answers the calls of its names. With `offer="always"` every run gets its definitions; with `"listed"` the model
    sees a tool only where the caller lists it, in the caller's own words.
    """

    def __init__(self, name: str, *, offer: Literal["listed", "always"] = "listed") -> None:
        if offer not in ("listed", "always"):
            raise ValueError(f"offer is 'listed' or 'always', not {offer!r}")
        self.name = name
        self.offer = offer
        self._tools: dict[str, _Tool] = {}

    def tool(
        self,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        name: str | None = None,
        description: str | None = None,
    ) -> Callable[[Function], Function]:
        """Make a tool of the decorated function, sync or async; the function itself stays as it is.

        `timeout` is in seconds; the default is the operator's. An `idempotent` tool may run again when a crash hid its
        result. `name` and `description` replace those of the function. Raises ValueError for a name that is taken or
        that no provider takes, TypeError for a signature a model cannot call.
        """
        options = ToolOptions(timeout=timeout, idempotent=idempotent)

        def add(function: Function) -> Function:
            self._add(name or function.__name__, function, description, options)
            return function

        return add

    def definitions(self) -> list[FunctionTool]:
        """Return the tools as a model is shown them."""
        return [copy.deepcopy(tool.definition) for tool in self._tools.values()]

    def bf_tools(self) -> dict[str, ToolOptions]:
        """Return the names it answers, with how they want to be called."""
        return {name: tool.options for name, tool in self._tools.items()}

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        """Add the definitions to every run, if they are to be offered always and the caller did not list them."""
        if self.offer == "always":
            listed = {tool.get("name") for tool in run.tools}
            run.tools.extend(tool for tool in self.definitions() if tool["name"] not in listed)

    @hookimpl
    def on_tool_call(self, run: Run, call: ToolCall) -> ToolResult | Awaitable[ToolResult] | None:
        """Validate the arguments and call the function, if it is one of ours."""
        from bf_plugin.plugins.toolschema import BadArguments

        tool = self._tools.get(call.name)
        if tool is None:
            return None
        try:
            arguments = tool.schema.bind(run, call)
        except BadArguments as error:
            return ToolResult(f"Error: {call.name}: {error}", is_error=True)
        answer = tool.function(**arguments)
        return _Later(answer) if inspect.isawaitable(answer) else _result(answer)

    def _add(self, name: str, function: Callable[..., Any], description: str | None, options: ToolOptions) -> None:
        from bf_plugin.plugins.toolschema import FunctionSchema  # pydantic takes its time

        if name in self._tools:
            raise ValueError(f"toolbox {self.name} has two tools named {name}")
        if not _NAME.fullmatch(name) or name.startswith("ui_"):
            raise ValueError(f"{name} is no name for a tool: 1 to 64 of A-Z a-z 0-9 _ -, and ui_ is for pages")
        schema = FunctionSchema(function)
        definition: FunctionTool = {"type": "function", "name": name, "parameters": schema.parameters}
        if text := description or schema.description:
            definition["description"] = text
        self._tools[name] = _Tool(function=function, schema=schema, definition=definition, options=options)


def _result(answer: object) -> ToolResult:
    """Return the answer in what a function returned: None is an answer too, and not "somebody else's call"."""
    return answer if isinstance(answer, ToolResult) else ToolResult(answer)


class _Later:
    """The result of an async tool. Closing it, where nobody awaits it, closes what the tool returned."""

    def __init__(self, answer: Awaitable[object]) -> None:
        self._answer = answer

    def __await__(self) -> Generator[Any, None, ToolResult]:
        return self._wait().__await__()

    def close(self) -> None:
        if inspect.iscoroutine(self._answer):
            self._answer.close()

    async def _wait(self) -> ToolResult:
        return _result(await self._answer)
