"""Contexts as a mount gives them, without one: a store in memory, and a real event loop."""

from __future__ import annotations

from typing import Any

from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.lease import Lease
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.testing.store import MemoryStore


class Contexts:
    """Makes contexts that share one loop, for as long as it is open."""

    def __enter__(self) -> Contexts:
        self.loop = LoopThread()
        self._lease = Lease(self.loop)
        self._lease.count = lambda: 0
        return self

    def __exit__(self, *exc: object) -> None:
        self._lease.close()
        self.loop.close()

    def new(self, **fields: Any) -> PluginContext:
        """Return a context; what is not given is as in a mount without settings for the plugin."""
        lent = {"run_async": self._lease.run_async, "active_runs": self._lease.active_runs}
        defaults = {"name": "plugin", "store": MemoryStore(), **lent}
        return PluginContext(**{**defaults, **fields})
