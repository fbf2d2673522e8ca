"""The facade over some plugins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.guards import new_manager, register
from bf_plugin.runtime.workers import Workers
from hooksetup import PATIENCE, Setup, plugin_of


@pytest.fixture
def workers() -> Iterator[Workers]:
    """Two threads."""
    pool = Workers("hooks", limit=2)
    yield pool
    pool.close()


@pytest.fixture
def setup(workers: Workers) -> Setup:
    """Make the facade over some plugins, the first named registered first."""

    def make(*plugins: Any, timeout: float = PATIENCE, **named: Any) -> HookCalls:
        manager = new_manager()
        for plugin in plugins:
            register(manager, type(plugin).__name__, plugin)
        for name, functions in named.items():
            register(manager, name, plugin_of(*(functions if isinstance(functions, tuple) else (functions,))))
        return HookCalls(manager, workers, timeout=timeout)

    return make
