"""One server: the task that keeps the connection to it, the tools it has at the moment, and calls of them.

All of it runs on the event loop, but for reading `offers`, `up` and `settled`. The connection is entered and left in
one task, as the SDK's cancel scopes ask; calls are made in the tasks of whoever calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import anyio
import jsonschema  # noqa: F401 - the SDK would import it on the loop, with the first call
from mcp import Client, MCPError
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.types import CONNECTION_CLOSED, METHOD_NOT_FOUND, Implementation, Tool, ToolListChangedNotification
from pydantic import ValidationError

from bf_hook_mcp import transports
from bf_hook_mcp.definitions import Offer, offered
from bf_hook_mcp.results import text_of
from bf_hook_mcp.settings import ServerSettings
from bf_plugin import ToolOptions, ToolResult

_STEADY = 30.0
"""A connection that lasted so long, in seconds, is made again at once; one that did not may be failing as it begins."""
_FIRST_PAUSE = 0.5
_MOST_PAGES = 100
_LONGEST_REASON = 300
_CUT_OFF = "SSE stream"
"""How the SDK begins to say that an HTTP answer ended before its time; the connection may be there yet."""

_log = logging.getLogger("bf_hook_mcp")


class Connection:
    """The connection to one server, made at first use and again whenever it is lost, until `aclose`."""

    def __init__(self, name: str, settings: ServerSettings) -> None:
        self.name = name
        self._settings = settings
        self._secrets = settings.secrets()
        self._known: Mapping[str, Offer] = {}
        self.options: Mapping[str, ToolOptions] = {}
        """How to call the tools, by the names for the model; what is known stays known while the server is down."""
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None
        self._trouble = transports.Trouble(self._heard_line)
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        self._mode = "auto"
        self._over = False
        self._closing = False
        self._calls = 0
        self._up_at: float | None = None
        self._down_at: float | None = None

    @property
    def up(self) -> bool:
        """Whether the server is there. Any thread."""
        return self._client is not None

    @property
    def offers(self) -> Mapping[str, Offer]:
        """What the server offers at the moment, by the names for the model: nothing while it is down. Any thread."""
        return self._known if self.up else {}

    @property
    def settled(self) -> bool:
        """Whether it is known if the server is there; it is not before the first attempt is over. Any thread."""
        return self._settled.is_set()

    async def ready(self) -> None:
        """Begin, if nobody has, and wait until it is known whether the server is there.

        That takes `connect_timeout` at most, and nothing while the server is down: only the first attempt and the one
        after a loss are worth waiting for.
        """
        if self._task is None:
            # In a context of its own: the task outlives the run that begins it, so that one's trace is not its.
            self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._live())
        await self._settled.wait()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        """Call a tool by its name for the model; what goes wrong is told to the model.

        A call is made again, once, if the server cannot have seen it or does not mind seeing it twice.
        """
        return await self._once(name, arguments) or await self._once(name, arguments) or self._lost(name)

    async def aclose(self) -> None:
        """Leave the server. A process that does not end by itself is killed after some seconds, by the SDK."""
        self._closing = True
        self._leave()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _once(self, name: str, arguments: Mapping[str, Any]) -> ToolResult | None:
        """Return the answer, None if the call should be made again."""
        await self.ready()
        client, offer = self._client, self._known.get(name)
        if client is None:
            return self._error("cannot be reached at the moment. Nothing happened.")
        if offer is None:
            return self._error(f"has no tool {name} (any more). Nothing happened.")
        self._calls += 1
        try:
            result = await client.call_tool(offer.tool, dict(arguments))
        except MCPError as error:
            if self._trouble.session_gone:
                self._leave()
                return None
            if not self._is_lost(client, error):
                return self._error(f"refused the call: {error.message}")
            self._wake.set()
            return None if offer.options.idempotent else self._lost(name)
        except (RuntimeError, ValidationError) as error:
            return self._error(f"answered {name} with something it should not: {_first_line(error)}")
        finally:
            self._calls -= 1
        return ToolResult(self._clean(text_of(result, self._settings.result_chars)), is_error=bool(result.is_error))

    def _is_lost(self, client: Client, error: MCPError) -> bool:
        """Tell the SDK's word for a lost connection from a server's error: both have the code -32000."""
        lost = self._client is not client or error.message.startswith(_CUT_OFF)
        return error.code == CONNECTION_CLOSED and lost

    def _lost(self, name: str) -> ToolResult:
        return self._error(f"was lost while {name} ran. It may have taken effect: do not repeat it without asking.")

    def _error(self, what: str) -> ToolResult:
        return ToolResult(self._clean(f"Error: the server {self.name} {what}"), is_error=True)

    async def _live(self) -> None:
        attempts = 0
        try:
            while not self._closing:
                lasted = await self._attempt()
                attempts = 1 if lasted > _STEADY else attempts + 1
                if not lasted or attempts > 1:
                    self._settled.set()
                    await self._pause(attempts)
        finally:
            self._settled.set()

    async def _attempt(self) -> float:
        """Connect and stay connected; return how many seconds that lasted, 0 if it came to nothing. Raises nothing.

        Some programs end when they are asked for what the protocol did not know in their time, so those that do are
        started once more and spoken to as servers were then.
        """
        problem = await self._try()
        if self._up_at is None and not self._closing and self._settings.url is None:
            self._mode = "legacy" if self._mode == "auto" else "auto"
            problem = await self._try()
        if not self._closing:
            self._went_down(problem)
        return 0.0 if self._up_at is None else time.monotonic() - self._up_at

    async def _try(self) -> str:
        """Connect and stay connected; return why it ended."""
        self._over, self._up_at = False, None
        self._wake.clear()
        self._trouble = transports.Trouble(self._heard_line)
        try:
            await self._connected()
            problem = "it ended the connection"
        except Exception as error:
            problem = _reason(error)
        self._ended()
        return f"{problem}{self._trouble}"

    async def _connected(self) -> None:
        """One connection, from its making to its end."""
        # A scope around all of it, whose deadline goes away later: one around the entering alone could not be left
        # while the scopes that were entered in it are open.
        with anyio.CancelScope(deadline=anyio.current_time() + self._settings.connect_timeout) as self._scope:
            way = transports.connection(self._settings, self._trouble, self._ended)
            info = Implementation(name="bf-hook-mcp", version=version("bf-hook-mcp"))
            async with Client(
                way, mode=self._mode, cache=None, client_info=info, message_handler=self._heard
            ) as client:
                await self._list(client)
                self._scope.deadline = math.inf
                self._came_up(client)
                await self._follow(client)
        if self._scope.cancelled_caught and not self._closing:
            raise TimeoutError(f"it was not ready within {self._settings.connect_timeout:g} seconds")

    async def _follow(self, client: Client) -> None:
        """List the tools again when the server says so, and now and then, until the connection is over."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._listen, client)
            while not self._over:
                with anyio.move_on_after(self._settings.refresh):
                    await self._wake.wait()
                self._wake.clear()
                if not self._over:
                    await self._list_again(client)
            group.cancel_scope.cancel()

    async def _list_again(self, client: Client) -> None:
        try:
            await self._list(client)
        except TimeoutError:
            if not self._calls:  # a server may do one thing at a time: a call under way shows that it is there
                raise

    async def _list(self, client: Client) -> None:
        tools: list[Tool] = []
        cursor: str | None = None
        with anyio.fail_after(self._settings.connect_timeout):
            for _ in range(_MOST_PAGES):
                page = await client.list_tools(cursor=cursor)
                tools += page.tools
                cursor = page.next_cursor
                if not cursor:
                    break
        self._known = offered(self.name, tools, self._settings)
        self.options = {name: offer.options for name, offer in self._known.items()}

    async def _heard(self, message: object) -> None:
        """Take what a server of the protocol before 2026-07-28 tells by itself."""
        if isinstance(message, ToolListChangedNotification):
            self._wake.set()

    def _heard_line(self, line: str) -> None:
        self._say(logging.DEBUG, f"writes: {line}")

    async def _listen(self, client: Client) -> None:
        """Keep the stream open on which a server of today's protocol tells of changes."""
        tools = client.server_capabilities.tools
        pause = 1.0
        while tools is not None and tools.list_changed:
            opened = time.monotonic()
            try:
                async with client.listen(tools_list_changed=True) as changes:
                    async for _ in changes:
                        self._wake.set()
            except ListenNotSupportedError:
                return
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return
            except SubscriptionLost:
                pass
            pause = 1.0 if time.monotonic() - opened > _STEADY else min(2 * pause, self._settings.retry)
            await anyio.sleep(pause)
            self._wake.set()  # nobody told what changed meanwhile

    async def _pause(self, attempts: int) -> None:
        if self._closing:
            return
        self._wake.clear()
        longest = min(self._settings.retry, _FIRST_PAUSE * 2 ** min(attempts - 1, 20))
        seconds = longest * random.uniform(0.5, 1)  # noqa: S311 - so that not all processes come at once
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _came_up(self, client: Client) -> None:
        self._client, self._up_at = client, time.monotonic()
        if self._down_at is not None:
            self._say(logging.INFO, f"is back after {self._up_at - self._down_at:.1f} s: {len(self._known)} tools")
        self._down_at = None
        self._settled.set()

    def _went_down(self, problem: str) -> None:
        """Say it once for an outage, however many attempts there are."""
        if self._down_at is None:
            self._down_at = time.monotonic()
            self._say(logging.WARNING, f"is down, its tools are left out until it is back: {problem}")

    def _ended(self) -> None:
        """Note that nothing more comes on this connection; whoever wants to call waits for what comes next."""
        self._over = True
        self._wake.set()
        if self._client is not None:
            self._client = None
            self._settled.clear()

    def _leave(self) -> None:
        """End the connection, or the attempt at one."""
        if self._client is None and self._scope is not None:
            self._scope.cancel()
        self._ended()

    def _say(self, level: int, what: str) -> None:
        _log.log(level, "%s", self._clean(f"MCP server {self.name} {what}"))

    def _clean(self, text: str) -> str:
        """Return a text without the operator's secrets."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "[redacted]")
        return text


def _reason(error: BaseException) -> str:
    """Return what went wrong, for operators: the first of the errors that tasks of the SDK collect in groups."""
    while inner := getattr(error, "exceptions", None):
        error = inner[0]
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:_LONGEST_REASON]
