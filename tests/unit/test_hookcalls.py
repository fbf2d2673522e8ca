"""The facade over the hooks: who is called, where, and what a failure becomes."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

import pytest

from bf_plugin import testing
from bf_plugin.errors import PluginError, RunRejected, StopRun
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.plugins.hookspecs import hookimpl, in_thread
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import new_draft
from bf_plugin.values import Delta, Outcome, Run, RunDraft, ToolCall, ToolOptions, ToolResult, Usage

T = TypeVar("T")

PATIENCE = 10

Setup = Callable[..., HookCalls]


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Two threads."""
    pool = Workers("hooks", limit=2)
    yield pool
    pool.close()


@pytest.fixture
def setup(workers: Workers) -> Setup:
    """Make the facade over some plugins, the first named registered first."""

    def make(*plugins: Any, timeout: float = PATIENCE, **named: Any) -> HookCalls:
        manager = new_manager()
        for plugin in plugins:
            register(manager, type(plugin).__name__, plugin)
        for name, functions in named.items():
            register(manager, name, plugin_of(*(functions if isinstance(functions, tuple) else (functions,))))
        return HookCalls(manager, workers, timeout=timeout)

    return make


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


# before_run ----------------------------------------------------------------------------------------------------------


def test_before_run_sees_what_earlier_plugins_left(setup: Setup) -> None:
    """Plugins change one draft in turn, the last registered first."""

    def appending(word: str) -> Callable[..., None]:
        @hookimpl
        def before_run(run: RunDraft) -> None:
            run.instructions = (run.instructions or "") + word

        return before_run

    draft = new_draft()
    setup(first=appending("b"), second=appending("a")).before_run(draft)
    assert draft.instructions == "ab"


def test_before_run_runs_in_the_calling_thread(setup: Setup) -> None:
    """It may use what belongs to the request's thread."""
    seen = []

    @hookimpl
    def before_run() -> None:
        seen.append(threading.current_thread())

    setup(plugin=before_run).before_run(new_draft())
    assert seen == [threading.current_thread()]


def test_run_rejected_passes(setup: Setup) -> None:
    """A refusal reaches the caller as the plugin raised it."""

    @hookimpl
    def before_run(run: RunDraft) -> None:
        raise RunRejected(429, "later", retry_after=3)

    with pytest.raises(RunRejected) as caught:
        setup(plugin=before_run).before_run(new_draft())
    assert (caught.value.code, caught.value.message, caught.value.retry_after) == (429, "later", 3)


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(2), StopRun("stop")])
def test_other_errors_of_before_run_name_the_plugin(setup: Setup, error: BaseException) -> None:
    """Anything unplanned is a PluginError without the exception's text, which stays its cause."""

    @hookimpl
    def before_run(run: RunDraft) -> None:
        raise error

    with pytest.raises(PluginError, match=r"^plugin audit: before_run raised") as caught:
        setup(audit=before_run).before_run(new_draft())
    assert caught.value.plugin == "audit"
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["id", "thread_id", "app", "request_id", "stream", "new_thread"])
def test_a_draft_keeps_its_identity(setup: Setup, field: str) -> None:
    """A plugin that changes an id or the app is named."""

    @hookimpl
    def before_run(run: RunDraft) -> None:
        setattr(run, field, "other")

    with pytest.raises(PluginError, match="plugin thief: before_run changed what is fixed"):
        setup(thief=before_run, innocent=hookimpl(specname="before_run")(lambda run: None)).before_run(new_draft())


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("tools", [{"type": "function", "function": {"name": "nested"}}], "tools.0"),
        ("tools", [{"type": "function", "name": "f", "parameters": {"default": object()}}], "not JSON"),
        ("messages", [{"type": "message", "role": "user", "content": "text"}], "messages.0.content"),
        ("options", {"temperature": math.nan}, "not JSON"),
        ("metadata", {"n": 1}, "metadata.n"),
        ("instructions", 5, "instructions"),
        ("traceparent", "00-1-2-01", "traceparent, tracestate: not as W3C Trace Context has them"),
        ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01\r\nX-Other: header", "traceparent, tracestate: not as"),
        ("tracestate", "a=b", "traceparent, tracestate: not as"),
    ],
)
def test_a_bad_draft_names_plugin_and_field(setup: Setup, field: str, value: Any, problem: str) -> None:
    """What a plugin leaves is checked while its name is known."""

    @hookimpl
    def before_run(run: RunDraft) -> None:
        setattr(run, field, value)

    with pytest.raises(PluginError, match=f"plugin clumsy: before_run left a bad draft: {problem}"):
        setup(clumsy=before_run).before_run(new_draft())


# on_delta ------------------------------------------------------------------------------------------------------------


@hookimpl
def shout(run: Run, delta: Delta) -> None:
    delta.text = delta.text.upper()


shout.__name__ = "on_delta"


def test_no_plugin_wants_deltas(setup: Setup) -> None:
    """Without an `on_delta` anywhere the driver need not call at all."""

    @hookimpl
    def on_end(run: Run) -> None:
        pass

    calls = setup(plugin=on_end)
    assert (calls.has_on_delta, calls.delta_in_thread) == (False, False)


def test_on_delta_changes_text_on_the_loop(setup: Setup) -> None:
    """An unmarked plugin is called where the loop is."""
    seen = []

    @hookimpl
    def on_delta(delta: Delta) -> None:
        seen.append(threading.current_thread())
        delta.text += "!"

    calls, delta = setup(shout=shout, bang=on_delta), Delta("hi")
    run(calls.apply_delta(new_run(), delta))
    assert (calls.has_on_delta, calls.delta_in_thread, delta.text) == (True, False, "HI!")
    assert seen == [threading.current_thread()]


@pytest.mark.parametrize("order", ["above", "below"])
def test_in_thread_moves_on_delta_to_a_worker(setup: Setup, order: str) -> None:
    """A plugin that blocks is called in a worker, wherever its mark stands."""
    seen = []

    def on_delta(delta: Delta) -> None:
        seen.append(threading.current_thread().name)
        delta.text += "!"

    marked = in_thread(hookimpl(on_delta)) if order == "above" else hookimpl(in_thread(on_delta))
    calls, delta = setup(plain=shout, slow=marked), Delta("hi")
    run(calls.apply_delta(new_run(), delta))
    assert (calls.delta_in_thread, delta.text) == (True, "HI!")
    assert seen == ["hooks-1"]


def test_stop_run_passes_from_on_delta(setup: Setup) -> None:
    """A guard ends the run with its own reason, also from a worker."""

    @in_thread
    @hookimpl
    def on_delta(delta: Delta) -> None:
        raise StopRun("content_filter", "no")

    with pytest.raises(StopRun) as caught:
        run(setup(guard=on_delta).apply_delta(new_run(), Delta("x")))
    assert (caught.value.finish_reason, caught.value.message) == ("content_filter", "no")


def test_a_reason_that_no_end_may_have_is_a_failure(setup: Setup) -> None:
    """`StopRun("bored")` would be sent to pages: it names the plugin instead."""

    @hookimpl
    def on_delta(delta: Delta) -> None:
        raise StopRun("bored")

    with pytest.raises(PluginError, match="plugin guard: on_delta raised StopRun"):
        setup(guard=on_delta).on_delta(new_run(), Delta("x"))


@pytest.mark.parametrize("text", [None, b"bytes", 3])
def test_text_stays_text(setup: Setup, text: Any) -> None:
    """A plugin that leaves something else than a string is named."""

    @hookimpl
    def on_delta(delta: Delta) -> None:
        delta.text = text

    with pytest.raises(PluginError, match="plugin odd: on_delta changed what is fixed"):
        setup(odd=on_delta).on_delta(new_run(), Delta("x"))


def test_a_hanging_on_delta_is_named(setup: Setup, workers: Workers) -> None:
    """A guard in a thread that does not come back ends the run, and its thread is counted."""
    gate = threading.Event()

    @in_thread
    @hookimpl
    def on_delta(delta: Delta) -> None:
        gate.wait(PATIENCE)

    with pytest.raises(PluginError, match=r"plugin slow: no answer in 0\.05 s"):
        run(setup(slow=on_delta, timeout=0.05).apply_delta(new_run(), Delta("x")))
    assert workers.lost == 1
    gate.set()


# on_tool_call --------------------------------------------------------------------------------------------------------


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
    assert "tool add: plugin maths: on_tool_call raised ValueError" in caplog.text


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
    """After the call's time-out the model is told, the thread counted lost, the plugin named."""
    gate = threading.Event()
    calls = setup(polite=tool(lambda: None), stuck=tool(lambda: gate.wait(PATIENCE)))
    result = answer(calls, new_call(timeout=0.05))
    assert result.output == "Error: add did not answer within 0.05 seconds. It may have taken effect."
    assert (result.is_error, workers.lost) == (True, 1)
    assert "tool add: plugin stuck: no answer in 0.05 s" in caplog.text
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
    """When all threads are busy for the whole time-out, the model learns that nothing happened."""
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
    assert "on_end: plugin none: not called: hooks threads are closed" in caplog.text


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


# on_end and on_stop --------------------------------------------------------------------------------------------------


def test_on_end_reaches_all_though_some_fail(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """One broken plugin keeps no other from being called, before or after it; the log names it."""
    told = []

    def telling(name: str) -> Callable[..., None]:
        @hookimpl
        def on_end(run: Run, outcome: Outcome) -> None:
            told.append(name)
            if name == "broken":
                raise ValueError("oops")

        return on_end

    run(setup(a=telling("a"), broken=telling("broken"), c=telling("c")).on_end(new_run(), outcome()))
    assert told == ["c", "broken", "a"]
    assert "plugin broken failed in on_end: oops" in caplog.text


@pytest.mark.parametrize("fails", ["before", "after", "twice", "never yields", "no"])
def test_broken_wrappers_of_on_end_are_as_if_not_there(
    setup: Setup, caplog: pytest.LogCaptureFixture, fails: str
) -> None:
    """Wherever a wrapper of a telling hook fails, the others are told and the log names it."""
    told = []

    @hookimpl
    def on_end(run: Run) -> None:
        told.append("inner")

    @hookimpl(wrapper=True, specname="on_end")
    def around(run: Run) -> Generator[None, Any, Any]:
        if fails == "before":
            raise ValueError("early")
        if fails == "never yields":
            return None
        result = yield
        if fails == "after":
            raise ValueError("late")
        if fails == "twice":
            yield
        return result

    run(setup(inner=on_end, wrapper=around).on_end(new_run(), outcome()))
    assert told == ["inner"]
    assert ("plugin wrapper failed in on_end" in caplog.text) == (fails != "no")


def test_no_error_of_on_end_reaches_the_others(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """Not even one of our own kind, which elsewhere names a plugin."""
    told: list[str] = []

    @hookimpl(specname="on_end")
    def fails(run: Run) -> None:
        raise PluginError("somebody", "else")

    @hookimpl
    def on_end(run: Run) -> None:
        told.append("other")

    run(setup(other=on_end, broken=fails).on_end(new_run(), outcome()))
    assert told == ["other"]
    assert "plugin broken failed in on_end" in caplog.text


def test_on_end_waits_with_patience_only(setup: Setup, workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that hangs is named and its thread counted; the driver goes on."""
    gate = threading.Event()

    @hookimpl
    def on_end(run: Run) -> None:
        gate.wait(PATIENCE)

    run(setup(stuck=on_end, timeout=0.05).on_end(new_run(), outcome()))
    assert "on_end: plugin stuck: no answer in 0.05 s" in caplog.text
    assert workers.lost == 1
    gate.set()


def test_on_stop_is_not_waited_for(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    """The call returns while the plugin is still at it, and failures are logged all the same."""
    caplog.set_level(logging.ERROR)

    async def stop() -> list[str]:
        gate, told = threading.Event(), []
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        @hookimpl
        def on_stop(reason: str) -> None:
            assert gate.wait(PATIENCE)
            told.append(reason)
            loop.call_soon_threadsafe(done.set)

        @hookimpl(specname="on_stop")
        def broken(reason: str) -> None:
            raise ValueError("oops")

        calls = setup(good=on_stop, bad=broken)
        calls.on_stop(new_run(), "deadline")
        told.append("returned")
        gate.set()
        await done.wait()
        return told

    assert run(stop()) == ["returned", "deadline"]
    assert "plugin bad failed in on_stop: oops" in caplog.text


# wrappers ------------------------------------------------------------------------------------------------------------


class Around:
    """A wrapper on every hook."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.stopped = threading.Event()

    @hookimpl(wrapper=True)
    def before_run(self, run: RunDraft) -> Generator[None, Any, Any]:
        self.seen.append("before_run")
        result = yield
        run.instructions = "wrapped"
        return result

    @hookimpl(wrapper=True)
    def on_delta(self, delta: Delta) -> Generator[None, Any, Any]:
        self.seen.append("on_delta")
        result = yield
        delta.text = f"<{delta.text}>"
        return result

    @hookimpl(wrapper=True)
    def on_tool_call(self) -> Generator[None, Any, Any]:
        self.seen.append("on_tool_call")
        result = yield
        return {"wrapped": result}

    @hookimpl(wrapper=True)
    def on_end(self) -> Generator[None, Any, Any]:
        self.seen.append("on_end")
        return (yield)

    @hookimpl(wrapper=True)
    def on_stop(self) -> Generator[None, Any, Any]:
        self.seen.append("on_stop")
        self.stopped.set()
        return (yield)


def test_wrappers_work_on_all_hooks(setup: Setup) -> None:
    """A wrapper is called around the others and may change what they leave."""
    around = Around()
    calls = setup(around, shout=shout, maths=tool(3))
    draft, delta = new_draft(), Delta("x")
    calls.before_run(draft)
    calls.on_delta(new_run(), delta)

    async def rest() -> ToolResult:
        calls.on_stop(new_run(), "stop")
        result = await calls.on_tool_call(new_run(), new_call())
        await calls.on_end(new_run(), outcome())
        await asyncio.to_thread(around.stopped.wait, PATIENCE)
        return result

    assert run(rest()).output == '{"wrapped":3}'
    assert (draft.instructions, delta.text) == ("wrapped", "<X>")
    assert sorted(around.seen) == ["before_run", "on_delta", "on_end", "on_stop", "on_tool_call"]


@pytest.mark.parametrize("fails", ["before", "after", "never yields"])
def test_failing_wrappers_are_named(setup: Setup, fails: str) -> None:
    """A wrapper's failure is a PluginError like any other."""

    @hookimpl(wrapper=True)
    def on_delta(delta: Delta) -> Generator[None, Any, Any]:
        if fails == "never yields":
            return None
        if fails == "before":
            raise ValueError
        result = yield
        raise ValueError(result)

    with pytest.raises(PluginError, match="around"):
        setup(shout=shout, around=on_delta).on_delta(new_run(), Delta("x"))


def test_a_wrapper_sees_another_plugins_failure(setup: Setup) -> None:
    """It may handle it, knowing whose it is; the plugin keeps the blame if it does not."""
    seen = []

    @hookimpl(wrapper=True, specname="on_tool_call")
    def around() -> Generator[None, Any, Any]:
        try:
            return (yield)
        except PluginError as error:
            seen.append((error.plugin, type(error.__cause__)))
            return "mended"

    assert answer(setup(maths=tool(raising(KeyError("x"))), around=around)).output == "mended"
    assert seen == [("maths", KeyError)]


# what plugins offer --------------------------------------------------------------------------------------------------


def test_tool_options_come_from_the_plugin_that_is_asked_first(setup: Setup) -> None:
    """Names and options are those of `bf_tools`, and one that fails is named and skipped."""

    def offering(**tools: ToolOptions) -> Callable[[], dict[str, ToolOptions]]:
        def bf_tools() -> dict[str, ToolOptions]:
            return tools

        return bf_tools

    def bf_tools() -> dict[str, ToolOptions]:
        raise OSError("gone")

    calls = setup(
        a=(tool(1), offering(x=ToolOptions(timeout=1), y=ToolOptions(idempotent=True))),
        b=(tool(1), offering(x=ToolOptions(timeout=2))),
        broken=(tool(1), bf_tools),
        plain=tool(1),
    )
    assert calls.tool_names() == ["x", "y"]
    assert calls.tool_options("x") == ToolOptions(timeout=2)
    assert calls.tool_options("y") == ToolOptions(idempotent=True)
    assert calls.tool_options("z") == ToolOptions()
