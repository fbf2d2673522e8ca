"""The hooks: the tools of all servers offered to runs, and calls of them passed on."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Collection

from bf_hook_mcp.connection import Connection
from bf_hook_mcp.definitions import SEPARATOR
from bf_hook_mcp.settings import McpSettings, read_settings
from bf_plugin import PluginContext, Run, RunDraft, ToolCall, ToolOptions, ToolResult, hookimpl


def create(context: PluginContext) -> Servers:
    """Make the plugin. Raises ValueError for settings that are wrong, which names the field.

    Nothing is started here: a process may fork after it has loaded its plugins.
    """
    return Servers(context, read_settings(context.section))


class Servers:
    """All servers of the section."""

    def __init__(self, context: PluginContext, settings: McpSettings) -> None:
        self._run_async = context.run_async
        self._settings = settings
        self._patience = max((server.connect_timeout for server in settings.servers.values()), default=0.0)
        self._connections = {name: Connection(name, server) for name, server in settings.servers.items()}

    def bf_tools(self) -> dict[str, ToolOptions]:
        """Return how each tool wants to be called, as far as the servers have been heard."""
        return {name: options for one in self._connections.values() for name, options in one.options.items()}

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        """Offer the run what its app may use of the servers that are there."""
        if not self._settings.patterns(run.app):
            return
        connections = self._connections.values()
        if starting := [connection for connection in connections if not connection.settled]:
            self._run_async(_settled(starting, self._patience))
        taken = {tool["name"] for tool in run.tools if tool["type"] == "function"}
        for connection in connections:
            for name, offer in connection.offers.items():
                if name not in taken and self._settings.allows(run.app, name):
                    run.tools.append(copy.deepcopy(offer.definition))  # later plugins may change it

    @hookimpl
    def on_tool_call(self, run: Run, call: ToolCall) -> ToolResult | Awaitable[ToolResult] | None:
        """Pass a call on to the server that its name begins with."""
        connection = self._connections.get(call.name.partition(SEPARATOR)[0])
        if connection is None or SEPARATOR not in call.name:
            return None
        if not self._settings.allows(run.app, call.name):
            return ToolResult(f"Error: {call.name} may not be used here. Nothing happened.", is_error=True)
        return connection.call(call.name, call.arguments)

    async def aclose(self) -> None:
        """Leave all servers, at once."""
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))


async def _settled(connections: Collection[Connection], patience: float) -> None:
    """Wait until it is known of all servers whether they are there, for some seconds: a run must not hang on them."""
    waiting = [asyncio.ensure_future(connection.ready()) for connection in connections]
    await asyncio.wait(waiting, timeout=patience)
    for one in waiting:
        one.cancel()
