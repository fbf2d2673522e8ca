"""What tells an operator, or a load balancer, whether this process can serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bf_plugin.errors import BFError
from bf_plugin.gateway.host import HostCaller
from bf_plugin.journal import Journal
from bf_plugin.plugins.loading import Plugins
from bf_plugin.runtime.workers import Workers


class Health:
    """The checks behind `readyz`, and the report behind `plugins`."""

    def __init__(self, *, journal: Journal, caller: HostCaller | None, workers: Workers, plugins: Plugins) -> None:
        self._journal = journal
        self._caller = caller
        self._workers = workers
        self._plugins = plugins

    def checks(self) -> Mapping[str, str | None]:
        """Return what is wrong by the name of each part, None for a part that works."""
        return {
            "journal": _problem(self._journal.check),
            "host": self._host(),
            "threads": self._threads(),
            "engines": None if self._plugins.engines else "no engine is loaded: see plugins",
        }

    def plugins(self) -> list[dict[str, Any]]:
        """Return the report on every plugin, engine and messenger."""
        return [msgspec.to_builtins(report) for report in self._plugins.reports]

    def _host(self) -> str | None:
        stuck = self._caller.stuck if self._caller else 0
        return f"{stuck} calls of the host app hang: restart it, or find what it waits for" if stuck else None

    def _threads(self) -> str | None:
        if not self._workers.exhausted:
            return None
        return f"{self._workers.lost} threads hang in tools or hooks: the log names the plugins"


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except BFError as error:
        return str(error)
    return None
