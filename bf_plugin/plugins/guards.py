"""The guards between pluggy and a plugin: each failure gets the plugin's name, agreed signals pass.

`loading` registers plugins here. pluggy sees a stand-in for each, which holds its hook functions behind guards.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import Any, get_args

import pluggy

from bf_plugin.errors import BFError, PluginError, RunRejected, StopRun
from bf_plugin.plugins import hookspecs
from bf_plugin.runtime.logs import RunLogger, get_logger
from bf_plugin.runtime.tracecontext import trace_context
from bf_plugin.values import Delta, FinishReason, Run, RunDraft

HOOKS = ("before_run", "on_delta", "on_tool_call", "on_end", "on_stop")

_SIGNALS: dict[str, type[BFError]] = {"before_run": RunRejected, "on_delta": StopRun, "on_tool_call": StopRun}
_FORGIVING = frozenset({"on_end", "on_stop"})  # the guard logs their failures, so that pluggy calls the others too

_log = get_logger(__name__)


@dataclass(slots=True)
class Trail:
    """Which plugin's code a thread is in, and for which run: a hang gets a name by it."""

    run_id: str
    request_id: str
    app: str
    plugin: str = "unknown"

    @classmethod
    def of(cls, run: Run) -> Trail:
        """Return the trail of a hook call that is about to begin."""
        return cls(run.id, run.request_id, run.app)

    def log(self, log: RunLogger) -> RunLogger:
        """Return `log` with the ids of the run this is about."""
        return log.bind(run_id=self.run_id, request_id=self.request_id)


CURRENT: ContextVar[Trail | None] = ContextVar("bf_plugin_trail", default=None)
"""The trail of the hook call this thread is in."""


class StandIn:
    """What pluggy sees of a plugin; `plugin` is the plugin itself."""

    def __init__(self, plugin: object) -> None:
        self.plugin = plugin


def new_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hooks and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def implementations(manager: pluggy.PluginManager, plugin: object) -> dict[str, Any]:
    """Return the marked functions of a plugin: attribute name to pluggy's options."""
    found = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    return {name: options for name, options in found.items() if options}


def register(manager: pluggy.PluginManager, name: str, plugin: object) -> tuple[str, ...]:
    """Register a plugin behind guards; return the hooks it implements. PluginError if it is not fit."""
    stand_in, hooks = StandIn(plugin), []
    for attribute, options in implementations(manager, plugin).items():
        hook = options.get("specname") or attribute
        function = getattr(plugin, attribute)
        if hook in HOOKS:
            _check_kind(name, hook, function, options)
            guard = _guard(name, hook, function, options)
            setattr(stand_in, attribute, hookspecs.hookimpl(**options)(guard))
            hooks.append(hook)
        elif not options.get("optionalhook"):
            raise PluginError(name, f"implements {hook}, which is not a hook; hooks are {', '.join(HOOKS)}")
    if not hooks:
        raise PluginError(name, "implements no hook: mark its functions with @hookimpl")
    _register(manager, name, stand_in)
    return tuple(hook for hook in HOOKS if hook in hooks)


def _register(manager: pluggy.PluginManager, name: str, stand_in: StandIn) -> None:
    if manager.has_plugin(name):
        raise PluginError(name, "another plugin has this name")
    try:
        manager.register(stand_in, name)
    except pluggy.PluginValidationError as error:
        if manager.has_plugin(name):  # before 1.7 pluggy leaves half a plugin behind
            manager.unregister(name=name)
        raise PluginError(name, " ".join(str(error).split())) from None


def _check_kind(name: str, hook: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        advice = "; return an awaitable for the calls that are yours" if hook == "on_tool_call" else ""
        raise PluginError(name, f"{hook} is async: hooks are plain functions{advice}")
    if options.get("hookwrapper"):
        raise PluginError(name, f"{hook} is marked hookwrapper=True: use wrapper=True")
    if options.get("wrapper") and not inspect.isgeneratorfunction(function):
        raise PluginError(name, f"{hook} is marked wrapper=True, but does not yield")


def _guard(name: str, hook: str, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not options.get("wrapper"):
        return _plain(name, hook, function)
    return _forgiving_wrapper(name, hook, function) if hook in _FORGIVING else _strict_wrapper(name, hook, function)


def _plain(name: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guard(*args: Any) -> Any:
        if (trail := CURRENT.get()) is not None:
            trail.plugin = name
        with Edge(name, hook, args):
            return function(*args)

    return guard


def _strict_wrapper(name: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guard(*args: Any) -> Generator[None, Any, Any]:
        with Edge(name, hook, args):
            wrapper = _started(function(*args))
            try:
                result = yield
            except BaseException as error:
                return _finished(wrapper.throw, error)
            return _finished(wrapper.send, result)

    return guard


def _forgiving_wrapper(name: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Guard a wrapper of a hook that all plugins get: where it fails, the others are called as if it were not there."""

    @functools.wraps(function)
    def guard(*args: Any) -> Generator[None, Any, Any]:
        wrapper = None
        with Edge(name, hook, args):
            wrapper = _started(function(*args))
        result = yield
        if wrapper is not None:
            with Edge(name, hook, args):
                _finished(wrapper.send, result)
        return result

    return guard


def _started(wrapper: Generator[None, Any, Any]) -> Generator[None, Any, Any]:
    for _ in wrapper:
        return wrapper
    raise RuntimeError("a wrapper yields once, this one did not")


def _finished(resume: Callable[[Any], object], value: object) -> Any:
    try:
        resume(value)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("a wrapper yields once, this one did again")


class Edge:
    """Checks what leaves a plugin's code: errors get its name, what it may not change must be as before."""

    __slots__ = ("args", "before", "hook", "name")

    def __init__(self, name: str, hook: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.hook = hook
        self.args = args

    def __enter__(self) -> None:
        self.before = [_fixed(value) for value in self.args]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if error is None:
            self._check()
            return False
        if not isinstance(error, (Exception, SystemExit)):
            return False
        if self.hook in _FORGIVING:
            self._log(error)
            return True
        if isinstance(error, PluginError):
            return False
        if not self._is_signal(error):
            raise PluginError(self.name, f"{self.hook} raised {type(error).__name__}") from error
        return False

    def _is_signal(self, error: BaseException) -> bool:
        if isinstance(error, StopRun) and error.finish_reason not in get_args(FinishReason):
            return False
        signal = _SIGNALS.get(self.hook)
        return signal is not None and isinstance(error, signal)

    def _check(self) -> None:
        if [_fixed(value) for value in self.args] != self.before:
            raise PluginError(self.name, f"{self.hook} changed what is fixed: ids, app, or the kind of the text")
        if self.hook == "before_run":
            for value in self.args:
                if problem := draft_problem(value):
                    raise PluginError(self.name, f"before_run left a bad draft: {problem}")

    def _log(self, error: BaseException) -> None:
        trail = CURRENT.get()
        log = trail.log(_log) if trail else _log
        log.error("plugin %s failed in %s: %s", self.name, self.hook, error, error=error)


def _fixed(value: object) -> object:
    """Return the part of a hook's argument that no plugin may change."""
    if isinstance(value, Delta):
        return type(value.text), value.final, value.replay
    if isinstance(value, RunDraft):
        return value.id, value.thread_id, value.app, value.request_id, value.stream, value.new_thread
    return None


def draft_problem(draft: RunDraft) -> str | None:
    """Return what is wrong with a draft (`tools.0.name: Field required`), None if nothing is.

    The text leaves the values out, since it is for the log.
    """
    from pydantic import ValidationError

    try:
        _draft_validator().validate_python({field.name: getattr(draft, field.name) for field in fields(draft)})
        json.dumps(asdict(draft), allow_nan=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (TypeError, ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    trace = (draft.traceparent, draft.tracestate)
    return None if trace_context(*trace) == trace else "traceparent, tracestate: not as W3C Trace Context has them"


@functools.cache
def _draft_validator() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(RunDraft)
