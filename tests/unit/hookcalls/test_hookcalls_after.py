"""The facade over the hooks: `on_end` and `on_stop`, wrappers, and what plugins offer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from bf_plugin.errors import PluginError
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import new_draft
from bf_plugin.values import Delta, Outcome, Run, RunDraft, ToolOptions, ToolResult
from hooksetup import PATIENCE, Setup, answer, new_call, new_run, outcome, raising, run, shout, tool


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
    assert "on_end failed: plugin stuck: no answer in 0.05 s" in caplog.text
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
