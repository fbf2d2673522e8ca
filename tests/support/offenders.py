"""Plugins made of functions, and the rules they break."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from typing import Any

import pytest

from bf_plugin import Delta, Outcome, PluginContext, Run, RunDraft, RunRejected, ToolCall, hookimpl
from bf_plugin.testing import NotConforming, check_plugin
from bf_plugin.testing.conformance import RULES
from bf_plugin.values import StopReason

SECRET = "Rosebud"


def plugin(**functions: Callable[..., Any]) -> types.SimpleNamespace:
    """Make a plugin of functions, marked as hooks."""
    return types.SimpleNamespace(**{name: hookimpl(function) for name, function in functions.items()}, name="it")


def broken(thing: object, **options: Any) -> list[tuple[str, str]]:
    """Return the rules a plugin breaks, with what is said of them."""
    with pytest.raises(NotConforming) as caught:
        check_plugin(thing, **options)
    assert all(RULES[problem.rule] in str(caught.value) for problem in caught.value.problems)
    return [(problem.rule, problem.what) for problem in caught.value.problems]


def only(thing: object, **options: Any) -> tuple[str, str]:
    """Return the one rule a plugin breaks."""
    (one,) = broken(thing, **options)
    return one


class Mask:
    """A filter that keeps all rules, with a factory and everything else a plugin may have."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context
        self.word = context.section.get("word", SECRET)
        self.closed: list[str] = []

    @hookimpl
    def before_run(self, run: RunDraft) -> None:
        if self.context.store.increment("runs") > 10_000:
            raise RunRejected(429, "too many")

    @hookimpl
    def on_delta(self, run: Run, delta: Delta) -> None:
        held = run.scratch.pop("mask", "")
        text = (held + delta.text).replace(self.word, "*" * len(self.word))
        keep = 0 if delta.final else next(n for n in range(len(self.word) - 1, -1, -1) if text.endswith(self.word[:n]))
        delta.text, run.scratch["mask"] = text[: len(text) - keep], text[len(text) - keep :]

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        self.context.run_async(asyncio.sleep(0))

    @hookimpl
    def on_stop(self, run: Run, reason: StopReason) -> None: ...

    @hookimpl(wrapper=True)
    def on_tool_call(self, run: Run, call: ToolCall) -> Generator[None, object, object]:
        return (yield)

    async def aclose(self) -> None:
        self.closed.append("aclose")

    def close(self) -> None:
        self.closed.append("close")
