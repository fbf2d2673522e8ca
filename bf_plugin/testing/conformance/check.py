"""One candidate through all checks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from bf_plugin.engines.port import Engine
from bf_plugin.errors import ContextError, PluginError
from bf_plugin.gateway.messengers import Messenger
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.entrypoints import Candidate
from bf_plugin.plugins.loading import is_factory
from bf_plugin.testing.conformance.bench import Bench
from bf_plugin.testing.conformance.conduct import check_conduct, check_contained, check_signals
from bf_plugin.testing.conformance.deltas import check_loop, check_splitting, cost_of_delta
from bf_plugin.testing.conformance.report import Conformance, Problem
from bf_plugin.testing.conformance.signatures import check_marked, check_typed
from bf_plugin.testing.conformance.subject import TIMEOUT, Subject, reason, requires_us

_PORTS: Mapping[str, type] = {"engine": Engine, "messenger": Messenger}
_CHECKS = (
    check_marked,
    check_typed,
    check_conduct,
    check_contained,
    check_signals,
    check_loop,
    check_splitting,
)


class _Unfit(Exception):
    """There is nothing to check any further, because this rule is broken."""

    def __init__(self, rule: str, error: BaseException) -> None:
        super().__init__(rule)
        self.rule = rule
        self.what = reason(error)


def check_candidate(candidate: Candidate, bench: Bench) -> Conformance:
    """Return what there is to say of a candidate."""
    problems = list(_check_requirement(candidate))
    try:
        if candidate.kind != "plugin":
            problems += _check_port(candidate, _made(candidate, _loaded(candidate), bench))
            return Conformance(name=candidate.name, problems=tuple(problems))
        thing = _loaded(candidate)
        problems += _check_offline(candidate, thing, bench)
        subject = _subject(candidate, thing, bench)
    except _Unfit as unfit:
        problems.append(Problem(plugin=candidate.name, rule=unfit.rule, what=unfit.what))
        return Conformance(name=candidate.name, problems=tuple(problems))
    cost = None
    try:
        for check in _CHECKS:
            problems += check(subject)
        cost = cost_of_delta(subject)
        if is_factory(thing):
            problems += _check_closes(subject)
    except FutureTimeoutError:
        what = f"a hook did not come back within {TIMEOUT:g} s"
        problems.append(Problem(plugin=candidate.name, rule="ordinary", what=what))
    return Conformance(name=subject.name, hooks=subject.hooks, problems=tuple(problems), on_delta_us=cost)


def _check_requirement(candidate: Candidate) -> Iterator[Problem]:
    if candidate.distribution is not None and not requires_us(candidate.distribution):
        what = f"{candidate.distribution} does not say which releases of bf_plugin it works with"
        yield Problem(plugin=candidate.name, rule="requirement", what=what)


def _loaded(candidate: Candidate) -> Any:
    try:
        return candidate.load()
    except PluginError as error:
        raise _Unfit("loads", error) from error


def _made(candidate: Candidate, factory: Callable[..., Any], bench: Bench) -> Any:
    """Return what a factory makes in a running gateway."""
    try:
        return factory(bench.contexts.new(**bench.fields(candidate.name)))
    except Exception as error:
        raise _Unfit("loads", error) from error


def _check_offline(candidate: Candidate, thing: Any, bench: Bench) -> Iterator[Problem]:
    """Call a factory as `bf-plugin plugins` does: there is no store and no loop."""
    if is_factory(thing):
        try:
            thing(PluginContext(**bench.fields(candidate.name)))
        except ContextError as error:
            yield Problem(plugin=candidate.name, rule="offline", what=f"its factory fails: {error}")
        except Exception as error:
            raise _Unfit("loads", error) from error


def _subject(candidate: Candidate, thing: Any, bench: Bench) -> Subject:
    try:
        if not is_factory(thing):
            return Subject(candidate.name, thing, bench)
        another = Subject(candidate.name, _made(candidate, thing, bench), bench)
        return Subject(candidate.name, _made(candidate, thing, bench), bench, another=another)
    except PluginError as error:
        raise _Unfit("hooks", error) from error


def _check_port(candidate: Candidate, part: object) -> Iterator[Problem]:
    """Compare the methods of an engine or a messenger with those of its port: there, and async or not."""
    for name, function in vars(_PORTS[candidate.kind]).items():
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        method, is_async = getattr(part, name, None), inspect.iscoroutinefunction(function)
        if not callable(method):
            yield Problem(plugin=candidate.name, rule="port", what=f"it has no {name}")
        elif inspect.iscoroutinefunction(method) != is_async:
            kind = "a coroutine function" if is_async else "a plain function"
            yield Problem(plugin=candidate.name, rule="port", what=f"{name} is not {kind}")


def _check_closes(subject: Subject) -> Iterator[Problem]:
    """Close what the check's own factory calls have made, as a mount does."""
    plugins = {id(one.plugin): one.plugin for one in (subject, subject.another)}
    for plugin in plugins.values():
        for name, close in (("aclose", _closed_on_loop), ("close", _closed_in_worker)):
            if callable(getattr(plugin, name, None)):
                try:
                    close(subject, plugin)
                except BaseException as error:
                    yield Problem(plugin=subject.name, rule="closes", what=f"{name}: {reason(error)}")


def _closed_on_loop(subject: Subject, plugin: Any) -> None:
    subject.bench.loop.run(asyncio.wait_for(plugin.aclose(), TIMEOUT)).result(2 * TIMEOUT)


def _closed_in_worker(subject: Subject, plugin: Any) -> None:
    subject.in_worker(plugin.close)
