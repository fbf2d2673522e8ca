"""The facade over the hooks: `before_run` and `on_delta`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bf_plugin.errors import PluginError, RunRejected, StopRun
from bf_plugin.plugins.hookspecs import hookimpl, in_thread
from bf_plugin.runtime.workers import Workers
from bf_plugin.testing import new_draft
from bf_plugin.values import Delta, Run, RunDraft
from hooksetup import PATIENCE, Setup, new_run, run, shout


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
