"""What hooks do when they are called as a run calls them, and when something fails."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from bf_plugin.errors import PluginError, RunRejected, StopRun
from bf_plugin.plugins import guards
from bf_plugin.plugins.hookspecs import hookimpl
from bf_plugin.testing.conformance.report import Problem
from bf_plugin.testing.conformance.subject import Subject, failures, reason
from bf_plugin.testing.values import new_call, new_outcome, new_run
from bf_plugin.values import Delta, Outcome, Run, RunDraft

NOBODYS_TOOL = "a_tool_that_nobody_has"

_TIMES = {"before_run": 1, "on_tool_call": 1, "on_stop": 1, "on_end": 2}
"""How often an ordinary run calls a hook; `on_end` comes again after a crash."""


def arguments(hook: str, subject: Subject) -> dict[str, Any]:
    """Return what a hook is called with; the tool called is nobody's."""
    if hook == "before_run":
        return {"run": subject.new_draft()}
    more: dict[str, dict[str, Any]] = {
        "on_delta": {"delta": Delta("text")},
        "on_tool_call": {"call": new_call(NOBODYS_TOOL)},
        "on_end": {"outcome": new_outcome()},
        "on_stop": {"reason": "stop"},
    }
    return {"run": new_run(), **more[hook]}


def check_conduct(subject: Subject) -> Iterator[Problem]:
    """Call the hooks as an ordinary run does, `warm_up` before. (`on_delta` is called by other checks.)"""
    warm_up = getattr(subject.plugin, "warm_up", None)
    if callable(warm_up):
        try:
            subject.in_worker(warm_up)
        except Exception as error:
            yield Problem(plugin=subject.name, rule="ordinary", what=f"warm_up raised {reason(error)}")
    for hook, times in _TIMES.items():
        for again in range(times if hook in subject.hooks else 0):
            with failures() as said:
                yield from _called(subject, hook)
            for text in said:
                second = ", when it was called again for the same run" if again else ""
                yield Problem(plugin=subject.name, rule="ordinary", what=f"{text.partition(' failed in ')[2]}{second}")


def _called(subject: Subject, hook: str) -> Iterator[Problem]:
    problem = functools.partial(Problem, plugin=subject.name)
    values = arguments(hook, subject)
    try:
        answer = subject.in_worker(lambda: getattr(subject.manager.hook, hook)(**values))
    except (RunRejected, StopRun):
        return
    except Exception as error:
        yield problem(rule="ordinary", what=reason(error))
    except BaseException as error:
        yield problem(rule="contained", what=f"{hook} raised {type(error).__name__}, which is no Exception")
    else:
        if hook == "on_tool_call" and answer is not None and not _comes_last(subject):
            close = getattr(answer, "close", None)
            if inspect.isawaitable(answer) and callable(close):
                close()
            yield problem(
                rule="own-calls", what=f"on_tool_call answered a call of {NOBODYS_TOOL}, which is not its tool"
            )


def _comes_last(subject: Subject) -> bool:
    """Tell whether it is asked about tools only when all others have declined."""
    return all(options.get("trylast") for _, hook, _, options in subject.implementations() if hook == "on_tool_call")


# failures ------------------------------------------------------------------------------------------------------------


class _Sabotage(Exception):
    """What is raised where a hook of a plugin should be."""


class _Other:
    """Another plugin, called last: it notes that it was, or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.told: list[str] = []
        self._fails = fails

    @hookimpl(trylast=True)
    def before_run(self, run: RunDraft) -> None:
        self._note("before_run")

    @hookimpl(trylast=True)
    def on_delta(self, run: Run, delta: Delta) -> None:
        self._note("on_delta")

    @hookimpl(trylast=True)
    def on_end(self, run: Run, outcome: Outcome) -> None:
        self._note("on_end")

    @hookimpl(trylast=True)
    def on_stop(self, run: Run) -> None:
        self._note("on_stop")

    def _note(self, hook: str) -> None:
        self.told.append(hook)
        if self._fails:
            raise _Sabotage("as the check asks for")


def check_contained(subject: Subject) -> Iterator[Problem]:
    """Let each hook of the plugin fail in turn: the plugin is named, and others are told of the run's end."""
    for attribute, hook, function, options in subject.implementations():
        broken = types.SimpleNamespace(**{attribute: hookimpl(**options)(_failing(function))})
        other = _Other()
        try:
            _called_beside(subject, hook, broken, other)
            contained = hook in other.told
        except PluginError as error:
            contained = error.plugin == subject.name and hook not in ("on_end", "on_stop")
        if not contained:
            yield Problem(plugin=subject.name, rule="contained", what=f"a failure of its {attribute} reaches others")


def check_signals(subject: Subject) -> Iterator[Problem]:
    """Let another plugin fail inside the wrappers of this one: the failure must come out."""
    for attribute, hook, _, options in subject.implementations():
        if options.get("wrapper") and hook in ("before_run", "on_delta"):
            other = _Other(fails=True)
            if not _raises(subject, hook, other) and other.told:
                what = f"the wrapper {attribute} swallows the failure of another plugin"
                yield Problem(plugin=subject.name, rule="signals", what=what)


def _raises(subject: Subject, hook: str, other: _Other) -> bool:
    try:
        _called_beside(subject, hook, subject.plugin, other)
    except Exception:
        return True
    return False


def _called_beside(subject: Subject, hook: str, plugin: object, other: _Other) -> None:
    manager = guards.new_manager()
    guards.register(manager, "other", other)
    guards.register(manager, subject.name, plugin)
    values = arguments(hook, subject)
    with failures():
        subject.in_worker(lambda: getattr(manager.hook, hook)(**values))


def _failing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the signature of `function` that fails, as a wrapper before it yields."""

    def fail(*_: object) -> None:
        raise _Sabotage("as the check asks for")

    def wrapper(*_: object) -> Iterator[None]:
        fail()
        yield

    return functools.wraps(function)(wrapper if inspect.isgeneratorfunction(function) else fail)
