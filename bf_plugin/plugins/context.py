"""What a plugin's factory gets: its settings, a store that outlives the process, a way onto the event loop.

A running mount lends `store`, `run_async` and `active_runs`. `bf-plugin plugins` loads plugins without one: then only
their use is an error. So a factory reads its settings, and hooks do the rest.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from bf_plugin.errors import ContextError

if TYPE_CHECKING:
    from bf_plugin.settings import Settings

T = TypeVar("T")


class PluginStore(Protocol):
    """A plugin's values in the journal: shared by all processes of a deployment, there after a restart, encrypted.

    Keys are text, and each plugin has its own. Values are what JSON can say. `ttl` is in seconds, None: for ever. The
    calls block for a query, or until the write is committed, so they are for request and worker threads. They raise
    ContextError on the event loop and outside a running mount, JournalError when the database fails.
    """

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, `default` where there is none or it has expired."""
        ...

    def put(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value under the key, in place of an earlier one."""
        ...

    def increment(self, key: str, by: float = 1, ttl: float | None = None) -> float:
        """Add to a number, 0 where there is none, and return the sum; atomic over threads, processes and hosts.

        The `ttl` starts with the first increment and is not prolonged by later ones: a fixed window. Whole numbers
        stay whole. Raises TypeError for a key that holds anything but a number.
        """
        ...

    def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        ...


class RunAsync(Protocol):
    """Runs a coroutine on the plugin's event loop, for hooks that block."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run `coroutine` on the loop, wait for it in this thread and return its result.

        Raises whatever the coroutine raises; TimeoutError after `timeout` seconds, which cancels it; ContextError on
        the loop itself, after the mount was closed, and outside a running mount.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginContext:
    """What a factory is called with.

    `section` is the plugin's own part of the settings: the table `[plugins.NAME]` of the apps file, empty without one.
    `settings` are those of the whole gateway, for engines and messengers. `store` keeps values over processes and
    restarts, `run_async(coroutine, timeout)` runs a coroutine on the event loop, `active_runs()` counts the runs that
    this process drives or is about to drive. These three work in hooks, not in a factory.
    """

    name: str
    section: Mapping[str, Any] = field(default_factory=dict, repr=False)
    settings: Settings | None = field(default=None, repr=False)
    store: PluginStore = field(default_factory=lambda: _NoStore(), repr=False)
    run_async: RunAsync = field(default_factory=lambda: _no_loop, repr=False)
    active_runs: Callable[[], int] = field(default_factory=lambda: _no_runs, repr=False)


_INSTEAD = {
    "store": "call it in a thread (asyncio.to_thread), or mark the on_delta that does it @in_thread",
    "run_async": "await the coroutine",
}


def refuse_on_loop(what: str) -> None:
    """Raise ContextError in a thread that runs an event loop: a wait there would stop everything else on it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ContextError(f"context.{what} was called on the event loop, where it would stop all runs: {_INSTEAD[what]}")


def checked_key(key: str) -> str:
    """Return a key. Raises TypeError for anything but text."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {type(key).__name__}")
    return key


def expiry(ttl: float | None, now: float) -> float | None:
    """Return when a value written at `now` expires. Raises ValueError for a `ttl` that is not above 0."""
    if ttl is None:
        return None
    if not 0 < ttl < math.inf:
        raise ValueError(f"ttl is a number of seconds above 0, or None for ever, not {ttl!r}")
    return now + ttl


class _NoStore:
    """The store of a plugin that was loaded without being mounted."""

    def _refuse(self, *_args: object, **_options: object) -> NoReturn:
        _nothing_runs("store")

    get = put = increment = delete = _refuse


def _no_loop(coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
    coroutine.close()
    _nothing_runs("run_async")


def _no_runs() -> int:
    _nothing_runs("active_runs")


def _nothing_runs(what: str) -> NoReturn:
    raise ContextError(
        f"context.{what} works in a running gateway only, and here the plugin was only loaded (as by `bf-plugin "
        "plugins`): use it in hooks, not in the factory"
    )
