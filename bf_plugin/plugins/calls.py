"""The only caller of hooks: one typed method per hook. `usecases` and `run` call these, and no plugin directly.

A plugin's failure stays where it belongs: each method says what it raises.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import pluggy

from bf_plugin.errors import PluginError
from bf_plugin.plugins import toolanswers
from bf_plugin.plugins.guards import CURRENT, Edge, StandIn, Trail
from bf_plugin.plugins.hookspecs import IN_THREAD
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.workers import Workers
from bf_plugin.values import Delta, Outcome, Run, RunDraft, StopReason, ToolCall, ToolOptions, ToolResult

T = TypeVar("T")

_log = get_logger(__name__)


class Overdue(PluginError):
    """A plugin's code took longer than it may; `begun` is false if no thread was free to call it at all."""

    def __init__(self, plugin: str, message: str, *, begun: bool = True) -> None:
        super().__init__(plugin, message)
        self.begun = begun


class HookCalls:
    """Calls the hooks of the plugins in `manager`; what blocks runs in `workers`.

    `timeout`, in seconds, is for calls without a tool's timeout: `on_end`, `on_stop`, an `on_delta` in a thread.
    """

    def __init__(self, manager: pluggy.PluginManager, workers: Workers, *, timeout: float = 60.0) -> None:
        self._manager = manager
        self._hook = manager.hook
        self._workers = workers
        self._timeout = timeout
        self._strays: set[asyncio.Future[Any]] = set()  # tasks nobody awaits: the loop itself holds them weakly
        deltas = manager.hook.on_delta.get_hookimpls()
        self.has_on_delta = bool(deltas)
        """Whether any plugin has `on_delta`; if not, nobody needs to call the delta methods."""
        self.delta_in_thread = any(getattr(impl.function, IN_THREAD, False) for impl in deltas)
        """Whether `on_delta` may block, so that the loop must call `apply_delta`."""

    def before_run(self, draft: RunDraft) -> None:
        """Let every plugin change the draft. Raises RunRejected, or PluginError for whatever else goes wrong."""
        self._hook.before_run(run=draft)

    def on_delta(self, run: Run, delta: Delta) -> None:
        """Let every plugin change the text, in this thread. Raises StopRun, or PluginError for whatever else."""
        self._hook.on_delta(run=run, delta=delta)

    async def apply_delta(self, run: Run, delta: Delta) -> None:
        """Call `on_delta` where its plugins want it: on the loop, or in a worker. Raises as `on_delta`."""
        if self.delta_in_thread:
            change = functools.partial(self.on_delta, run, delta)
            await self._in_worker(Trail.of(run), self._timeout, change)
        else:
            self.on_delta(run, delta)

    async def on_tool_call(self, run: Run, call: ToolCall) -> ToolResult:
        """Return the answer to a tool call; its output is the text for the model, whatever happened.

        It takes `call.timeout` seconds at most, the wait for a free thread included. Raises StopRun.
        """
        trail = Trail.of(run)
        try:
            return await self._answer(trail, run, call)
        except Overdue as error:
            text = toolanswers.overdue(call.name, call.timeout, begun=error.begun)
            trail.log(_log).warning("tool %s failed: %s", call.name, error)
        except PluginError as error:
            cause = error.__cause__ or error
            text = toolanswers.failed(call.name, cause)
            trail.log(_log).warning("tool %s failed: %s", call.name, error, error=cause)
        return ToolResult(toolanswers.answer_text(text), is_error=True)

    async def on_end(self, run: Run, outcome: Outcome) -> None:
        """Tell every plugin that the run is over, and wait until they know. Raises nothing."""
        if self._hook.on_end.get_hookimpls():
            await self._tell("on_end", run, functools.partial(self._hook.on_end, run=run, outcome=outcome))

    def on_stop(self, run: Run, reason: StopReason) -> None:
        """Begin to tell every plugin that the run was stopped, and return at once. Call it on the event loop."""
        if self._hook.on_stop.get_hookimpls():
            told = self._tell("on_stop", run, functools.partial(self._hook.on_stop, run=run, reason=reason))
            self._keep(asyncio.get_running_loop().create_task(told))

    def tool_options(self, name: str) -> ToolOptions:
        """Return how the plugin that offers tool `name` wants it called, the defaults if none says."""
        return next((tools[name] for tools in self._offers() if name in tools), ToolOptions())

    def tool_names(self) -> list[str]:
        """Return the names of the tools that plugins say they answer, sorted."""
        return sorted({name for tools in self._offers() for name in tools})

    def _offers(self) -> Iterator[Mapping[str, ToolOptions]]:
        """Ask each plugin that has `bf_tools()`, in the order in which pluggy asks them for answers."""
        for name, stand_in in reversed(self._manager.list_name_plugin()):
            offer = getattr(stand_in.plugin, "bf_tools", None) if isinstance(stand_in, StandIn) else None
            if offer is not None:
                try:
                    yield offer()
                except Exception as error:
                    _log.error("plugin %s failed in bf_tools: %s", name, error, error=error)

    async def _answer(self, trail: Trail, run: Run, call: ToolCall) -> ToolResult:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + call.timeout
        ask = functools.partial(self._ask, trail, run, call)
        answer = await self._in_worker(trail, call.timeout, ask)
        if isinstance(answer, ToolResult):
            return answer
        value = await self._awaited(trail, deadline - loop.time(), answer)
        write = functools.partial(_written, trail, value)
        return await self._in_worker(trail, deadline - loop.time(), write)

    def _ask(self, trail: Trail, run: Run, call: ToolCall) -> ToolResult | Awaitable[object]:
        answer = self._hook.on_tool_call(run=run, call=call)
        if answer is None:
            return ToolResult(toolanswers.answer_text(toolanswers.unanswered(call.name)), is_error=True)
        return answer if inspect.isawaitable(answer) else _written(trail, answer)

    def _tell(self, hook: str, run: Run, tell: Callable[[], object]) -> Coroutine[Any, Any, None]:
        """Begin to call a hook in a worker; return a coroutine that waits for its end."""
        trail = Trail.of(run)
        return self._heard(hook, trail, self._submit(trail, tell))

    async def _heard(self, hook: str, trail: Trail, future: Future[object]) -> None:
        try:
            await self._result(trail, future, self._timeout)
        except PluginError as error:  # a hang; the guards have logged what plugins raised
            trail.log(_log).error("%s failed: %s", hook, error)

    async def _in_worker(self, trail: Trail, seconds: float, job: Callable[[], T]) -> T:
        return await self._result(trail, self._submit(trail, job), seconds)

    def _submit(self, trail: Trail, job: Callable[[], T]) -> Future[T]:
        try:
            return self._workers.submit(_followed, trail, job, owner=trail.app)
        except RuntimeError as error:  # the pool is closed
            refused: Future[T] = Future()
            refused.set_exception(Overdue("none", f"not called: {error}", begun=False))
            return refused

    async def _result(self, trail: Trail, future: Future[T], seconds: float) -> T:
        """Wait for a job. Raises Overdue when it takes longer. If the wait is cancelled, the job may still finish."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        waiter = asyncio.wrap_future(future)
        try:
            await asyncio.wait({waiter}, timeout=max(seconds, 0))
        except asyncio.CancelledError:
            waiter.cancel()
            future.add_done_callback(_close_late)
            loop.call_at(deadline, self._workers.abandon, future)
            raise
        if waiter.done() and not waiter.cancelled():
            return waiter.result()
        begun = future.running()
        waiter.cancel()
        future.add_done_callback(_close_late)
        self._workers.abandon(future)
        if begun:
            raise Overdue(trail.plugin, f"no answer in {seconds:g} s")
        raise Overdue("none", f"not called in {seconds:g} s, all {self._workers.limit} threads are busy", begun=False)

    async def _awaited(self, trail: Trail, seconds: float, answer: Awaitable[T]) -> T:
        """Await what a plugin returned. Raises Overdue when that takes longer, even if it ignores being cancelled.

        The message of its CancelledError is then `timeout`: the plugin can tell a timeout from the end of its run.
        """
        overdue = False
        task = asyncio.get_running_loop().create_task(_contained(trail, answer))
        task.add_done_callback(lambda _: _close(answer))  # it may be cancelled before it began to await
        try:
            await asyncio.wait({task}, timeout=max(seconds, 0))
            overdue = True
        finally:
            if task.done():
                self._forget(task)  # the waiter may be cancelled by now
            else:
                task.cancel("timeout" if overdue else None)
                self._keep(task)
        if not task.done():
            raise Overdue(trail.plugin, f"no answer in time, {seconds:g} s of it spent awaiting")
        if task.cancelled():
            raise PluginError(trail.plugin, "what it returned was cancelled") from RuntimeError("cancelled")
        return task.result()

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._strays.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._strays.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: the waiter has heard that it was late


def _followed(trail: Trail, job: Callable[[], T]) -> T:
    """Run a job in a worker thread, with the trail that guards write into."""
    token = CURRENT.set(trail)
    try:
        return job()
    finally:
        CURRENT.reset(token)


async def _contained(trail: Trail, answer: Awaitable[T]) -> T:
    """Await within the task, since asyncio lets a SystemExit that leaves a task end the loop."""
    with Edge(trail.plugin, "on_tool_call"):
        value = await answer
    return value  # noqa: RET504  # a return within would be one that mypy thinks an Edge may swallow


def _written(trail: Trail, answer: object) -> ToolResult:
    """Return an answer with its output as text. Call it in a worker: the output may be large."""
    result = answer if isinstance(answer, ToolResult) else ToolResult(answer)
    with Edge(trail.plugin, "on_tool_call"):
        text = toolanswers.answer_text(result.output)
    return ToolResult(text, is_error=result.is_error)


def _close_late(future: Future[Any]) -> None:
    """Close what a job returned when nobody waits for it any more."""
    if not future.cancelled() and future.exception() is None:
        _close(future.result())


def _close(answer: object) -> None:
    close = getattr(answer, "close", None)
    if inspect.isawaitable(answer) and callable(close):
        close()
