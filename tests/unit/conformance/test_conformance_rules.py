"""The checks of plugins: each rule has a plugin that breaks it and is named."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bf_plugin import Delta, Outcome, PluginContext, Run, RunDraft, StopRun, ToolCall, ToolResult, hookimpl
from bf_plugin.testing import check_plugin, shown
from bf_plugin.values import ToolOptions
from offenders import Mask, broken, only, plugin


def test_loads() -> None:
    """A factory that fails is told from one that is not there."""

    def factory(context: PluginContext) -> object:
        return context.section["url"]

    assert only(factory) == ("loads", "KeyError('url')")


def test_offline() -> None:
    """A factory that uses the store works in a gateway, and fails under `bf-plugin plugins`."""

    def factory(context: PluginContext) -> object:
        limit = context.store.get("limit", 5)
        return plugin(on_end=lambda_of(limit))

    rule, what = only(factory)
    assert rule == "offline"
    assert "works in a running gateway only" in what


def lambda_of(limit: int) -> Callable[[Run], None]:
    def on_end(run: Run) -> None:
        assert limit

    return on_end


@pytest.mark.parametrize(
    ("hooks", "what"),
    [
        ({"on_finish": lambda run: None}, "implements on_finish, which is not a hook"),
        ({"on_end": lambda run, result: None}, "{'result'} are declared in the hookimpl but can not be found"),
        ({}, "implements no hook"),
    ],
)
def test_hooks(hooks: dict[str, Any], what: str) -> None:
    """Names and arguments are checked as the gateway does it."""
    rule, said = only(plugin(**hooks))
    assert rule == "hooks"
    assert what in said


def test_marked() -> None:
    """A hook without its mark is the mistake that is seen last: nothing happens."""

    class Forgets:
        @hookimpl
        def on_end(self, run: Run) -> None: ...
        def on_stop(self, run: Run) -> None: ...

    assert only(Forgets()) == ("marked", "on_stop is not marked as a hook, so nobody calls it")


def test_typed() -> None:
    """Missing and wrong annotations are named one by one."""

    def on_end(run, outcome: str):  # type: ignore[no-untyped-def]
        pass

    def on_delta(run: Run, delta: Outcome) -> str:  # type: ignore[empty-body]
        pass

    assert broken(plugin(on_end=on_end, on_delta=on_delta), examples=1) == [
        ("typed", "delta of on_delta is annotated Outcome, the hook has Delta"),
        ("typed", "the result of on_delta is annotated str, the hook has None"),
        ("typed", "run of on_end has no annotation"),
        ("typed", "outcome of on_end is annotated str, the hook has Outcome"),
        ("typed", "the result of on_end has no annotation"),
    ]


def test_ordinary() -> None:
    """A hook that fails in a run where nothing is special; an on_end that cannot come twice."""
    seen: set[str] = set()

    def before_run(run: RunDraft) -> None:
        raise KeyError("metadata")

    def on_end(run: Run) -> None:
        if run.id in seen:
            raise ValueError("twice")
        seen.add(run.id)

    def on_stop(run: Run) -> None:
        raise OSError("gone")

    def on_tool_call(run: Run, call: ToolCall) -> object:
        return {"look": 1}[call.name]

    assert broken(plugin(before_run=before_run, on_end=on_end, on_stop=on_stop, on_tool_call=on_tool_call)) == [
        ("ordinary", "before_run raised KeyError ('metadata')"),
        ("ordinary", "on_tool_call raised KeyError ('a_tool_that_nobody_has')"),
        ("ordinary", "on_stop: gone"),
        ("ordinary", "on_end: twice, when it was called again for the same run"),
    ]


def test_a_plugin_that_cannot_warm_up_is_not_ordinary() -> None:
    """The gateway calls it at its start."""

    def on_end(run: Run) -> None:
        pass

    thing = plugin(on_end=on_end)

    def warm_up() -> None:
        raise OSError("no stove")

    thing.warm_up = warm_up
    assert only(thing) == ("ordinary", "warm_up raised OSError('no stove')")


def test_a_bad_draft_is_not_ordinary() -> None:
    """What before_run leaves is checked as the gateway does it."""

    def before_run(run: RunDraft) -> None:
        run.metadata["a"] = 1  # type: ignore[assignment]

    rule, what = only(plugin(before_run=before_run))
    assert rule == "ordinary"
    assert "before_run left a bad draft: metadata.a" in what


def test_a_hook_that_hangs_is_not_ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check ends all the same."""
    monkeypatch.setattr("bf_plugin.testing.conformance.subject.TIMEOUT", 0.2)
    gate = threading.Event()

    def on_delta(run: Run, delta: Delta) -> None:
        gate.wait(1)

    rule, what = only(plugin(on_delta=on_delta))
    gate.set()
    assert rule == "ordinary"
    assert "did not come back" in what


@pytest.mark.parametrize("answer", ["no such tool", ToolResult(None), False])
def test_own_calls(answer: object) -> None:
    """Whoever answers calls of others takes their tools away."""

    def on_tool_call(run: Run, call: ToolCall) -> object:
        return answer

    rule, what = only(plugin(on_tool_call=on_tool_call))
    assert rule == "own-calls"
    assert "a_tool_that_nobody_has" in what


def test_own_calls_of_a_coroutine() -> None:
    """An awaitable is an answer; nothing of it is left behind."""

    async def later() -> str:
        return "x"

    def on_tool_call(run: Run, call: ToolCall) -> object:
        return later()

    assert only(plugin(on_tool_call=on_tool_call))[0] == "own-calls"


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_contained(error: type[BaseException]) -> None:
    """What is no Exception goes through every guard."""

    def before_run(run: RunDraft) -> None:
        raise error

    def on_end(run: Run) -> None:
        raise error

    found = broken(plugin(before_run=before_run, on_end=on_end))
    assert {rule for rule, _ in found} == {"contained"}
    assert f"before_run raised {error.__name__}, which is no Exception" in {what for _, what in found}


@pytest.mark.parametrize("hook", ["before_run", "on_delta"])
def test_signals(hook: str) -> None:
    """A wrapper that swallows what is sent to it undoes the guards of others."""

    def before_run(run: RunDraft) -> Iterator[None]:
        try:
            yield
        except Exception:
            return

    def on_delta(run: Run) -> Iterator[None]:
        yield from before_run(run)  # type: ignore[arg-type]

    function = {"before_run": before_run, "on_delta": on_delta}[hook]
    swallows = types.SimpleNamespace(**{hook: hookimpl(wrapper=True)(function)})  # type: ignore[type-var]
    assert only(swallows) == ("signals", f"the wrapper {hook} swallows the failure of another plugin")


def connects() -> None:
    with socket.socket() as client, pytest.raises(OSError, match="refused"):
        client.connect(("127.0.0.1", 1))


@pytest.mark.usefixtures("unconfined")
@pytest.mark.parametrize(
    ("block", "seen"),
    [
        (lambda: time.sleep(0), "time.sleep"),
        (lambda: Path(__file__).read_bytes(), "open"),
        (lambda: socket.getaddrinfo("127.0.0.1", 80), "socket.getaddrinfo"),
        (connects, "socket.connect"),
    ],
)
def test_loop(block: Callable[[], object], seen: str) -> None:
    """What waits for something is named, in on_delta and in bf_tools, however little it waits here."""

    def on_delta(run: Run, delta: Delta) -> None:
        block()

    def bf_tools() -> dict[str, ToolOptions]:
        block()
        return {}

    assert only(plugin(on_delta=on_delta), examples=1) == ("loop", f"on_delta blocks the event loop: {seen}")
    offering = plugin(on_tool_call=lambda_none())
    offering.bf_tools = bf_tools
    assert only(offering) == ("loop", f"bf_tools blocks the event loop: {seen}")


def lambda_none() -> Callable[[Run], object]:
    def on_tool_call(run: Run) -> object:
        return None

    return on_tool_call


def test_loop_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not seen is measured: at its fastest, a call takes longer than any machine excuses."""
    clock = itertools.count(0, 0.06)  # each look at it comes 60 ms after the last
    monkeypatch.setattr(
        "bf_plugin.testing.conformance.deltas.time", types.SimpleNamespace(perf_counter=lambda: next(clock))
    )

    def on_delta(run: Run, delta: Delta) -> None: ...

    rule, what = only(plugin(on_delta=on_delta), examples=1)
    assert rule == "loop"
    assert what.startswith("on_delta takes 60 ms on the event loop")


def test_loop_and_the_store() -> None:
    """The store refuses to be used on the loop; the rule says what to do."""

    def factory(context: PluginContext) -> object:
        def on_delta(run: Run, delta: Delta) -> None:
            context.store.get("word")

        return plugin(on_delta=on_delta)

    found = dict(broken(factory, examples=1))
    assert "context.store was called on the event loop" in found["loop"]


def test_what_is_imported_at_the_first_call_is_no_offence() -> None:
    """A lazy import happens once."""

    def on_delta(run: Run, delta: Delta) -> None:
        sys.modules.pop("this_is_no_module", None)
        run.app.encode()

    check_plugin(plugin(on_delta=on_delta), examples=1)


def test_splitting() -> None:
    """A filter that does not hold back is shown the cut that gives it away, as short as it can be."""

    def on_delta(run: Run, delta: Delta) -> None:
        delta.text = delta.text.replace("fox", "cat")

    rule, what = only(plugin(on_delta=on_delta), texts=["fox"])
    assert rule == "splitting"
    assert re.fullmatch(r"on_delta makes 'fox' of \('fo?', 'o?x'\), and 'cat' of the same text in one piece", what)


def test_splitting_and_stops() -> None:
    """A guard that misses a word cut in two is found as well."""

    def on_delta(run: Run, delta: Delta) -> None:
        if "fox" in delta.text:
            raise StopRun("content_filter")

    rule, what = only(plugin(on_delta=on_delta), texts=["fox"])
    assert rule == "splitting"
    assert "StopRun('content_filter') of the same text in one piece" in what


def test_splitting_keeps_what_is_held() -> None:
    """Text that is never let go is lost; by hand, `shown` tells."""

    def on_delta(run: Run, delta: Delta) -> None:
        text = run.scratch.pop("held", "") + delta.text
        delta.text, run.scratch["held"] = text[:-1], text[-1:]

    assert shown(on_delta, "abc") == "ab"
    # the last character is lost however the text is cut: that is the plugin's business, and the same every time
    check_plugin(plugin(on_delta=on_delta))


def test_replay_with_state_beside_the_run() -> None:
    """Another process does not have what this one remembers: state by run id gives itself away."""
    seen: dict[str, int] = {}

    def on_delta(run: Run, delta: Delta) -> None:
        seen[run.id] = seen.get(run.id, 0) + len(delta.text)
        if delta.final:
            delta.text = f"[{seen[run.id]}]"

    assert {rule for rule, _ in broken(plugin(on_delta=on_delta))} & {"replay", "splitting"}


def test_replay_that_says_nothing() -> None:
    """A plugin that skips replayed text does not know later what it knew: the page would see other text."""

    def on_delta(run: Run, delta: Delta) -> None:
        if delta.replay:
            return
        text = run.scratch.pop("held", "") + delta.text
        keep = 1 if text.endswith("f") and not delta.final else 0
        delta.text, run.scratch["held"] = text[: len(text) - keep], text[len(text) - keep :]

    rule, what = only(plugin(on_delta=on_delta), texts=["f"])
    assert rule == "replay"
    assert re.fullmatch(
        r"on_delta makes \['f', .*\] of \('f',.*\), when another process took the run over after 1 of them, "
        r"and \['', .*\] when none did",
        what,
    )


def test_an_on_delta_that_raises() -> None:
    """The text that does it is shown."""

    def on_delta(run: Run, delta: Delta) -> None:
        if "fox" in delta.text:
            raise ValueError("a fox")

    rule, what = only(plugin(on_delta=on_delta), texts=["fox"])
    assert rule == "ordinary"
    assert re.fullmatch(r"on_delta makes nothing of \('.*fox.*',\): on_delta raised ValueError \(a fox\)", what)


def test_closes() -> None:
    """What a factory made is closed by the check, as a gateway does."""

    class Stuck(Mask):
        async def aclose(self) -> None:
            raise OSError("stuck")

    assert broken(Stuck, examples=1) == [("closes", "aclose: OSError('stuck')")] * 2
