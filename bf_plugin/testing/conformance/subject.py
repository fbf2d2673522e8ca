"""What is checked: one plugin, as an object, as what its factory makes, or as an installed distribution offers it."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from packaging.requirements import Requirement

from bf_plugin.errors import PluginError
from bf_plugin.plugins import entrypoints, guards
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.entrypoints import GROUPS, Candidate, Kind
from bf_plugin.plugins.loading import candidate_of
from bf_plugin.testing.conformance.bench import Bench
from bf_plugin.testing.values import new_draft, new_run
from bf_plugin.values import Run, RunDraft

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds any call of a hook may take here."""


def candidates(thing: object) -> list[Candidate]:
    """Return what there is to check: an object, or all that the distribution of that name offers.

    Raises LookupError when none of that name is installed, or it offers nothing.
    """
    if not isinstance(thing, str):
        return [candidate_of(thing)]
    try:
        name = entrypoints.normal(importlib.metadata.distribution(thing).name)
    except importlib.metadata.PackageNotFoundError:
        raise LookupError(f"no distribution {thing} is installed here: pip install it first") from None
    kinds: tuple[Kind, ...] = ("plugin", "engine", "messenger")
    every = [candidate for kind in kinds for candidate in entrypoints.find(kind)]
    found = [candidate for candidate in every if entrypoints.normal(candidate.distribution or "") == name]
    if not found:
        raise LookupError(f"{thing} has no entry point of the groups {', '.join(GROUPS.values())}")
    return found


def requires_us(distribution: str) -> bool:
    """Tell whether a distribution says which releases of bf_plugin it is made for, lowest and highest."""
    for line in importlib.metadata.distribution(distribution).requires or ():
        requirement = Requirement(line)
        if entrypoints.normal(requirement.name) == entrypoints.CORE and requirement.marker is None:
            operators = {specifier.operator for specifier in requirement.specifier}
            return bool(operators & {"==", "~="} or (operators & {">=", ">"} and operators & {"<", "<="}))
    return False


class Subject:
    """One plugin, registered alone, with what it takes to call its hooks. Raises PluginError if it is not fit.

    `another` is the same plugin in another process, where there is a factory to make it.
    """

    def __init__(self, name: str, plugin: object, bench: Bench, *, another: Subject | None = None) -> None:
        self.name = name
        self.plugin = plugin
        self.bench = bench
        self.another = another or self
        self.manager = guards.new_manager()
        self.hooks = guards.register(self.manager, name, plugin)
        self.calls = HookCalls(self.manager, bench.workers, timeout=TIMEOUT)

    def implementations(self) -> list[tuple[str, str, Callable[..., Any], dict[str, Any]]]:
        """Return its marked functions: attribute, hook, function, pluggy's options."""
        marked = guards.implementations(self.manager, self.plugin)
        return [
            (attribute, options.get("specname") or attribute, getattr(self.plugin, attribute), options)
            for attribute, options in marked.items()
        ]

    def in_worker(self, function: Callable[[], T]) -> T:
        """Call a function in a worker thread, where a hook may raise whatever it likes."""
        return self.bench.workers.submit(function).result(TIMEOUT)

    def on_loop(self, function: Callable[[], T]) -> T:
        """Call a function on the event loop."""

        async def call() -> T:
            return function()

        return self.bench.loop.run(call()).result(TIMEOUT)

    def new_draft(self) -> RunDraft:
        """Return a draft as the check's caller wants it."""
        return new_draft(**self.bench.draft)

    def new_run(self) -> Run:
        """Return a run as the plugin's own `before_run` leaves it; as the caller wants it where that fails."""
        draft = self.new_draft()
        try:
            self.in_worker(lambda: self.calls.before_run(draft))
        except Exception:  # another check tells
            draft = self.new_draft()
        names = (
            "app",
            "provider",
            "instructions",
            "tools",
            "metadata",
            "options",
            "stream",
            "messages",
            "traceparent",
            "tracestate",
        )
        return new_run(model=draft.model or "gpt-test", **{name: getattr(draft, name) for name in names})


def reason(error: BaseException) -> str:
    """Return what a plugin did wrong, without its name."""
    text = error.problem if isinstance(error, PluginError) else repr(error)
    return f"{text} ({error.__cause__})" if error.__cause__ else text


@contextmanager
def failures() -> Iterator[list[str]]:
    """Collect what guards log, the failures of hooks that are only logged; meanwhile nobody else hears of them."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, logger = Handler(logging.ERROR), logging.getLogger(guards.__name__)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
