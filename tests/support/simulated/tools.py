"""Tools that return when they are told to, and what became of each call of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bf_plugin import StopRun, Toolbox, ToolCall
from bf_plugin.items import FunctionTool
from simulated.clock import live
from simulated.driving import DRIVING, Driver

NAMES = ("pay", "look", "ui_ask", "unknown")
"""Once at most, idempotent, asked of the page, answered by nobody."""

_PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
DEFINITIONS = [FunctionTool(type="function", name=name, parameters=_PARAMETERS) for name in NAMES]


@dataclass(slots=True, eq=False)
class Invocation:
    """A tool at work."""

    name: str
    key: str
    driver: Driver | None
    result: asyncio.Future[str]


class Tools:
    """What tools did in all processes."""

    def __init__(self, invoked: Callable[[Invocation], None]) -> None:
        self.invocations: list[Invocation] = []
        self._invoked = invoked

    @property
    def working(self) -> list[Invocation]:
        return [invocation for invocation in self.invocations if not invocation.result.done()]

    def count(self, key: str) -> int:
        return sum(invocation.key == key for invocation in self.invocations)

    def settle(self, invocation: Invocation, how: Literal["returns", "fails", "ends the run"]) -> None:
        """Let a tool come to its end."""
        if how == "returns":
            invocation.result.set_result(f"{invocation.name} {invocation.key}")
        elif how == "fails":
            invocation.result.set_exception(ValueError("it failed"))
        else:
            invocation.result.set_exception(StopRun("error", "enough"))

    def toolbox(self) -> Toolbox:
        """Return the tools as a plugin."""
        tools = Toolbox("simulated")

        async def work(call: ToolCall) -> str:
            await live()
            invocation = Invocation(call.name, call.idempotency_key, DRIVING.get(), _future())
            self.invocations.append(invocation)
            self._invoked(invocation)
            return await invocation.result

        @tools.tool()
        async def pay(call: ToolCall, n: int) -> str:
            """Pay: not to be repeated."""
            return await work(call)

        @tools.tool(idempotent=True)
        async def look(call: ToolCall, n: int) -> str:
            """Look."""
            return await work(call)

        return tools


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()
