"""What a mount lends to its plugins until it closes: the journal as a store, and its event loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from bf_plugin.errors import ContextError
from bf_plugin.journal import Journal
from bf_plugin.journal.pluginvalues import PluginValues
from bf_plugin.journal.writer import written
from bf_plugin.plugins.context import PluginContext, checked_key, expiry, refuse_on_loop
from bf_plugin.runtime.loop import LoopThread

T = TypeVar("T")


class Lease:
    """Says whether plugins may still use what they were lent, and lends the loop. One for each mount and process."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._pid = os.getpid()
        self.count: Callable[[], int] | None = None
        """Counts the runs under way; None until runs can start."""
        self._lock = threading.Lock()  # guards what follows: no wait may begin after `close`
        self._waiting: set[Future[Any]] = set()
        self._closed = False

    def close(self) -> None:
        """End the lease: whoever waits for a coroutine gets ContextError."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def check(self, what: str) -> None:
        """Raise ContextError when `what` cannot be used now, or not in this thread."""
        refuse_on_loop(what)
        self._check_open(what)

    def _check_open(self, what: str) -> None:
        if os.getpid() != self._pid:
            raise ContextError(
                f"context.{what} is that of the process this one was forked from: use the one given here"
            )
        if self._closed:
            raise ContextError(f"context.{what} was called after the plugin was closed")

    def active_runs(self) -> int:
        """Return how many runs this process drives or is about to drive. Any thread may ask: this does not block."""
        self._check_open("active_runs")
        if self.count is None:
            raise ContextError("context.active_runs was called before the gateway was up: use it in hooks")
        return self.count()

    def run_async(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it, as `RunAsync` says."""
        try:
            self.check("run_async")
            future = self._begun(coroutine)
        except BaseException:
            coroutine.close()
            raise
        try:
            return future.result(timeout)
        except CancelledError:
            raise ContextError("context.run_async: the coroutine was cancelled, as when the plugin is closed") from None
        except FutureTimeoutError:
            if future.done():
                return future.result()  # the result came after all, or the TimeoutError is the coroutine's own
            future.cancel()
            raise TimeoutError(f"the coroutine took longer than {timeout:g} s") from None
        finally:
            with self._lock:
                self._waiting.discard(future)

    def _begun(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                self.check("run_async")
            future = self._loop.run(coroutine)
            self._waiting.add(future)
        return future


class JournalStore:
    """One plugin's store: `PluginStore` in the journal. `now` is its clock, in POSIX seconds."""

    def __init__(
        self, values: PluginValues, lease: Lease, plugin: str, *, now: Callable[[], float] = time.time
    ) -> None:
        self._values = values
        self._lease = lease
        self._plugin = plugin
        self._now = now

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, or `default`."""
        found = self._values.get(self._plugin, self._checked(key), self._now())
        return default if found is None else found[0]

    def put(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value."""
        written(self._values.put(self._plugin, self._checked(key), value, expiry(ttl, self._now())))

    def increment(self, key: str, by: float = 1, ttl: float | None = None) -> float:
        """Add to a number and return the sum."""
        now = self._now()
        return written(self._values.increment(self._plugin, self._checked(key), by, now, expiry(ttl, now)))

    def delete(self, key: str) -> None:
        """Forget a value."""
        written(self._values.delete(self._plugin, self._checked(key)))

    def _checked(self, key: str) -> str:
        self._lease.check("store")
        return checked_key(key)


def lend(journal: Journal, lease: Lease) -> Callable[..., PluginContext]:
    """Return what makes the contexts of a mount's plugins, given name, section and settings."""

    def new_context(**fields: Any) -> PluginContext:
        store = JournalStore(journal.plugin_values, lease, fields["name"])
        return PluginContext(store=store, run_async=lease.run_async, active_runs=lease.active_runs, **fields)

    return new_context
