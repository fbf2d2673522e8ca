"""The hooks: what a plugin may implement, when each is called and what its failure means.

An implementation is a function of the hook's name, marked `@hookimpl`, that takes all of the hook's arguments or some
of them, in a module or on an object. pluggy calls the plugin registered last first; `tryfirst=True` and `trylast=True`
move an implementation, `wrapper=True` puts it around the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pluggy

from bf_plugin.values import Delta, Outcome, Run, RunDraft, StopReason, ToolCall

PROJECT = "bf_plugin"
"""What pluggy knows us by, and the entry-point group of plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

IN_THREAD = "bf_in_thread"

Function = TypeVar("Function", bound=Callable[..., Any])


def in_thread(function: Function) -> Function:
    """Mark an `on_delta` that blocks: a worker thread then calls it, and those of all other plugins too."""
    setattr(function, IN_THREAD, True)
    return function


@hookspec
def before_run(run: RunDraft) -> None:
    """Change a run before it starts, or refuse it.

    *When*: once per run, after the request was validated, before anything is stored or sent. The result is on record
    and is never computed again, not after a crash either.

    *Thread*: the server's request thread; it may block, and the caller waits.

    *Result*: none. Change the draft in place: instructions, model, provider, tools, messages, metadata, options. Every
    plugin is called and sees what earlier ones left.

    *If it raises*: `RunRejected(status, message)` refuses the run, the caller gets both. Anything else, a changed id or
    app, or a draft that is no longer well formed, fails the start with 500 and the log names the plugin.

    *Example*::

        from bf_plugin import RunDraft, RunRejected, hookimpl

        @hookimpl
        def before_run(run: RunDraft) -> None:
            if run.app == "trial" and run.model != "small":
                raise RunRejected(403, "the trial has the small model only")
            run.instructions = f"{run.instructions or ''}\\nAnswer briefly.".strip()
    """


@hookspec
def on_delta(run: Run, delta: Delta) -> None:
    """Read or change text on its way to the page.

    *When*: for each outgoing piece of text, after small ones were joined and before it goes on record; and a last time
    with `delta.final`, when text that was held back can go. No last call after a stop or an error: what is held then is
    dropped. After a takeover the text so far is played again, with `delta.replay`, and must come out the same.

    *Thread*: the event loop that serves all runs. It must not block; mark it `@in_thread` if it does.

    *Result*: none. Change `delta.text` in place; empty holds it back. Each plugin sees what the one before it left.

    *If it raises*: `StopRun(finish_reason, message)` ends the run. Anything else ends it with an error, because a guard
    that fails must not let text through.

    *Example*::

        from bf_plugin import Delta, Run, hookimpl

        @hookimpl
        def on_delta(run: Run, delta: Delta) -> None:
            text = run.scratch.pop("dashes.held", "") + delta.text
            single = (len(text) - len(text.rstrip("-"))) % 2  # the last of an odd number may get its partner yet
            if single and not delta.final:
                text, run.scratch["dashes.held"] = text[:-1], "-"
            delta.text = text.replace("--", "\\u2013")
    """


@hookspec(firstresult=True)
def on_tool_call(run: Run, call: ToolCall) -> object:
    """Answer a tool call of the model.

    *When*: for each call, once the model's step is complete. The calls of one step are made in parallel.

    *Thread*: a worker thread; it may block for `call.timeout` seconds. An awaitable that is returned is awaited on the
    event loop.

    *Result*: None if the tool is not yours. Else the answer: a `ToolResult`, a string, anything that JSON can say, or
    an awaitable of one of these. The first plugin to answer ends the asking. A plain function only: an `async def`
    would claim every call, so it is refused at load.

    *If it raises*: `StopRun(finish_reason, message)` ends the run. The model is told of any other exception, of an
    answer that is not JSON, and of a timeout, as an error with the exception's text. The run goes on; the log names the
    plugin.

    *Example*::

        from bf_plugin import Run, ToolCall, hookimpl

        @hookimpl
        def on_tool_call(run: Run, call: ToolCall) -> object:
            if call.name == "add":
                return {"sum": call.arguments["a"] + call.arguments["b"]}
            return None
    """


@hookspec
def on_end(run: Run, outcome: Outcome) -> None:
    """Look at a run that is over: account for it, keep it, tell somebody.

    *When*: after the page's gateway took the `end` event, or delivery was given up, or a waiting caller was answered.
    At least once: after a crash it may come again for the same `run.id`.

    *Thread*: a worker thread; it may block, up to a minute for all plugins together.

    *Result*: ignored; every plugin is called.

    *If it raises*: logged with the plugin's name; the others are called all the same.

    *Example*::

        import collections

        from bf_plugin import Outcome, Run, hookimpl

        tokens = collections.Counter()

        @hookimpl
        def on_end(run: Run, outcome: Outcome) -> None:
            tokens[run.app] += outcome.usage.total_tokens
    """


@hookspec
def on_stop(run: Run, reason: StopReason) -> None:
    """Release what a run holds elsewhere, such as a job that one of your tools started.

    *When*: a stop, the deadline or a newer run (`interrupt`) won. The call begins before the provider is told, and
    nothing waits for it. `on_end` follows.

    *Thread*: a worker thread of the process that drives the run; it may block, up to a minute.

    *Result*: ignored; every plugin is called.

    *If it raises*: logged with the plugin's name; the others are called all the same.

    *Example*::

        from bf_plugin import Run, hookimpl
        from bf_plugin.values import StopReason

        jobs = {}

        @hookimpl
        def on_stop(run: Run, reason: StopReason) -> None:
            for job in jobs.pop(run.id, ()):
                job.cancel()
    """
