"""The facade over the hooks: `on_tool_call`."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bf_plugin.errors import PluginError, StopRun
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.runtime.workers import Workers
from bf_plugin.values import ToolResult
from hooksetup import PATIENCE, Setup, T, answer, new_call, new_run, outcome, raising, run, tool


async def soon(value: T) -> T:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("plain", "plain"),
        ({"sum": 3, "ü": None}, '{"sum":3,"ü":null}'),
        (ToolResult(None), "null"),
        (ToolResult([1]), "[1]"),
        (0, "0"),
        (False, "false"),
        ("", ""),
        (lambda: soon({"a": 1}), '{"a":1}'),
        (lambda: soon(ToolResult("x")), "x"),
        (lambda: soon(None), "null"),
    ],
)
def test_answers_become_text(setup: Setup, result: Any, text: str) -> None:
    """Whatever form an answer has, the driver gets the text for the model."""
    assert answer(setup(maths=tool(result))) == ToolResult(text)


def test_tools_run_in_workers_in_parallel(setup: Setup) -> None:
    """Two calls of one step meet at a barrier, which one thread alone could not pass."""
    barrier = threading.Barrier(2)

    def meet() -> str:
        barrier.wait(PATIENCE)
        return threading.current_thread().name.partition("-")[0]

    calls = setup(maths=tool(meet))

    async def both() -> list[ToolResult]:
        return await asyncio.gather(*(calls.on_tool_call(new_run(), new_call()) for _ in range(2)))

    assert run(both()) == [ToolResult("hooks"), ToolResult("hooks")]


def test_the_first_plugin_to_answer_wins(setup: Setup) -> None:
    """Asking ends with the first answer that is not None; the last registered is asked first."""
    assert answer(setup(early=tool("early"), late=tool("late"), silent=tool(lambda: None))).output == "late"


def test_nobody_answers(setup: Setup) -> None:
    """Without any answer, the default plugin disabled too, the model is told that the tool is unknown."""
    result = answer(setup(maths=tool(1)), new_call("nonsense"))
    assert result == ToolResult("Error: unknown tool nonsense: nothing answers it.", is_error=True)


@pytest.mark.parametrize("result", [raising(ValueError("no such city")), lambda: soon(ValueError("no such city"))])
def test_an_exception_is_told_to_the_model(setup: Setup, caplog: pytest.LogCaptureFixture, result: Any) -> None:
    """The run goes on, the model reads what happened, the log names run and plugin."""
    assert answer(setup(maths=tool(result))) == ToolResult("Error: add failed: ValueError: no such city", is_error=True)
    assert "tool add failed: plugin maths: on_tool_call raised ValueError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError(), RecursionError(), PluginError("x", "y")])
def test_no_exception_of_a_tool_reaches_the_driver(setup: Setup, error: BaseException) -> None:
    """Not even those that would end the loop's thread or look like a cancellation of the driver."""
    assert answer(setup(maths=tool(lambda: soon(error)))).is_error


@pytest.mark.parametrize("result", [raising(StopRun("stop")), lambda: soon(StopRun("stop"))])
def test_stop_run_passes_from_on_tool_call(setup: Setup, result: Any) -> None:
    """A tool may end the run, called or awaited."""
    with pytest.raises(StopRun):
        answer(setup(maths=tool(result)))


@pytest.mark.parametrize("output", [math.nan, {"a": [math.inf]}, object(), {(1, 2): 3}, b"\xff"])
@pytest.mark.parametrize("form", [lambda x: x, ToolResult, soon], ids=["plain", "result", "awaitable"])
def test_what_is_not_json_is_an_error(
    setup: Setup, caplog: pytest.LogCaptureFixture, output: Any, form: Callable[[Any], Any]
) -> None:
    """Output that no JSON reader would take is told to the model, and the log names the plugin."""
    result = answer(setup(maths=tool(lambda: form(output))))
    assert result.is_error
    assert result.output.startswith("Error: add answered something that is not JSON")
    assert "plugin maths" in caplog.text


def test_a_thread_that_hangs_is_lost_and_named(
    setup: Setup, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """After the call's timeout the model is told, the thread counted lost, the plugin named."""
    gate = threading.Event()
    calls = setup(polite=tool(lambda: None), stuck=tool(lambda: gate.wait(PATIENCE)))
    result = answer(calls, new_call(timeout=0.05))
    assert result.output == "Error: add did not answer within 0.05 seconds. It may have taken effect."
    assert (result.is_error, workers.lost) == (True, 1)
    assert "tool add failed: plugin stuck: no answer in 0.05 s" in caplog.text
    gate.set()


def test_an_awaitable_that_hangs_is_cancelled_and_named(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that is late is cancelled, and one that refuses to be is left alone."""
    ended = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError as error:
            ended.append(error.args)
            raise ValueError("too late to matter") from None

    result = answer(setup(stuck=tool(stubborn)), new_call(timeout=0.05))
    assert (result.is_error, ended) == (True, [("timeout",)])
    assert "plugin stuck: no answer in time" in caplog.text


def test_a_call_that_finds_no_thread_says_so(setup: Setup, workers: Workers) -> None:
    """When all threads are busy for the whole timeout, the model learns that nothing happened."""
    gate = threading.Event()
    begun = threading.Barrier(3)

    def occupy() -> None:
        begun.wait(PATIENCE)
        gate.wait(PATIENCE)

    for _ in range(2):
        workers.submit(occupy)
    begun.wait(PATIENCE)
    result = answer(setup(maths=tool(1)), new_call(timeout=0.05))
    assert result == ToolResult("Error: add was not called, the server is busy. Nothing happened.", is_error=True)
    assert workers.lost == 0
    gate.set()


def test_closed_threads_fail_calls_and_nothing_else(
    setup: Setup, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """While the process shuts down a call gets an error, telling hooks a line in the log, and nothing is cancelled."""

    @hookimpl
    def on_end() -> None: ...

    calls = setup(maths=tool(1), teller=on_end)
    workers.close()
    assert answer(calls).is_error
    run(calls.on_end(new_run(), outcome()))
    assert "on_end failed: plugin none: not called: hooks threads are closed" in caplog.text


def test_a_call_that_is_dropped_from_the_queue_is_not_a_cancellation(setup: Setup, workers: Workers) -> None:
    """When the threads are closed over a queued call, the driver gets an answer, not a CancelledError."""
    gate, begun = threading.Event(), threading.Barrier(3)

    def occupy() -> None:
        begun.wait(PATIENCE)
        gate.wait(PATIENCE)

    for _ in range(2):
        workers.submit(occupy)
    begun.wait(PATIENCE)

    async def closing() -> ToolResult:
        task = asyncio.ensure_future(setup(maths=tool(1)).on_tool_call(new_run(), new_call()))
        asyncio.get_running_loop().call_soon(workers.close)
        return await task

    assert run(closing()).is_error
    gate.set()


def test_a_cancelled_driver_leaves_no_thread_uncounted(setup: Setup, workers: Workers) -> None:
    """When the run is stopped during a call, its thread is counted lost once the call's time is over."""
    gate, begun = threading.Event(), threading.Event()

    def stay() -> None:
        begun.set()
        gate.wait(PATIENCE)

    async def stopped() -> int:
        abandoned = asyncio.Event()
        task = asyncio.ensure_future(setup(stuck=tool(stay)).on_tool_call(new_run(), new_call(timeout=0.1)))
        await asyncio.to_thread(begun.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        before = workers.lost
        asyncio.get_running_loop().call_later(0.1, abandoned.set)  # due after what the call left behind
        await abandoned.wait()
        return before

    assert (run(stopped()), workers.lost) == (0, 1)
    gate.set()


def test_a_cancelled_driver_cancels_the_awaitable(setup: Setup) -> None:
    """When the run is stopped, what a plugin is awaiting is cancelled too, and not as late."""
    said: list[tuple[object, ...]] = []

    async def stopped() -> str:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def stay() -> None:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError as error:
                said.append(error.args)
                ended.set()
                raise

        task = asyncio.ensure_future(setup(slow=tool(stay)).on_tool_call(new_run(), new_call()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), PATIENCE)
        return "ended"

    assert run(stopped()) == "ended"
    assert said == [()]


def test_a_tool_that_fails_as_the_driver_is_cancelled(setup: Setup) -> None:
    """Nobody hears of the failure, and asyncio does not complain of that in the log."""

    async def stopped() -> list[Any]:
        begun, fail, failing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        unheard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

        async def work() -> None:
            begun.set()
            await fail.wait()
            failing.set()
            raise StopRun("error", "enough")

        task = asyncio.ensure_future(setup(slow=tool(work)).on_tool_call(new_run(), new_call()))
        await begun.wait()
        fail.set()
        await failing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()
        return unheard

    assert run(stopped()) == []
