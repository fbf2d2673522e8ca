"""What hooks are given, ready made, for tests that call a hook as the function it is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from bf_plugin.items import text_message
from bf_plugin.values import Delta, Outcome, Run, RunDraft, ToolCall, Usage

_IDS: Mapping[str, Any] = {"id": "run_1", "thread_id": "thread_1", "app": "app", "request_id": "request-1"}
_RUN: Mapping[str, Any] = {**_IDS, "provider": "openai", "model": "gpt-test", "instructions": None, "stream": True}


def new_draft(text: str = "Hi", **changes: Any) -> RunDraft:
    """Return the draft of a run whose user says `text`, for `before_run`."""
    values: dict[str, Any] = {"messages": [text_message("user", text)], "tools": [], "metadata": {}, "options": {}}
    return RunDraft(**{**_RUN, **values, "new_thread": True, **changes})


def new_run(**changes: Any) -> Run:
    """Return a run under way, with a `scratch` of its own, for all hooks but `before_run`."""
    return Run(**{**_RUN, "tools": (), "metadata": {}, "options": {}, **changes})


def new_call(name: str, arguments: Mapping[str, Any] | None = None, **changes: Any) -> ToolCall:
    """Return a call of a tool, for `on_tool_call`."""
    values: dict[str, Any] = {"id": "call_1", "idempotency_key": "run_1:call_1", "timeout": 10.0, **changes}
    return ToolCall(name=name, arguments=arguments or {}, **values)


def new_outcome(text: str = "Hello", **changes: Any) -> Outcome:
    """Return the outcome of a run that completed, for `on_end`."""
    usage = Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2)
    values: dict[str, Any] = {"status": "completed", "finish_reason": "stop", "usage": usage, "duration": 0.5}
    return Outcome(**{**values, "text": text, **changes})


def shown(on_delta: Callable[..., object], *pieces: str, run: Run | None = None, replay: bool = False) -> str:
    """Return what the page sees of a text that comes in these pieces: what `on_delta` lets go, to the last."""
    run = run or new_run()
    wanted = inspect.signature(on_delta).parameters  # an implementation may take some of the arguments only
    deltas = [*(Delta(piece, replay=replay) for piece in pieces), Delta("", final=True)]
    for delta in deltas:
        on_delta(**{name: value for name, value in (("run", run), ("delta", delta)) if name in wanted})
    return "".join(delta.text for delta in deltas)
