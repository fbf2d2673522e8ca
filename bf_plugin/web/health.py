"""Whether this process answers, whether it can serve, and what is installed: for operators and load balancers."""

from __future__ import annotations

from collections.abc import Mapping

import falcon
import msgspec

from bf_plugin.errors import BFError
from bf_plugin.gateway.apps import Apps
from bf_plugin.gateway.host import HostCaller
from bf_plugin.journal import Journal
from bf_plugin.plugins.loaded import Plugins
from bf_plugin.runtime.workers import Workers
from bf_plugin.web.cors import Resource
from bf_plugin.web.reading import authenticate


class HealthzResource(Resource):
    """`GET .../healthz`: this process answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer; nothing is looked at."""
        resp.media = {"status": "ok"}


class ReadyzResource(Resource):
    """`GET .../readyz`: this process can serve."""

    def __init__(self, *, journal: Journal, caller: HostCaller | None, workers: Workers, plugins: Plugins) -> None:
        self._journal = journal
        self._caller = caller
        self._workers = workers
        self._plugins = plugins

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 with what is wrong."""
        problems = self._problems()
        ready = not any(problems.values())
        resp.status = falcon.HTTP_200 if ready else falcon.HTTP_503
        checks = {name: {"ok": False, "problem": why} if why else {"ok": True} for name, why in problems.items()}
        resp.media = {"status": "ok" if ready else "failing", "checks": checks}

    def _problems(self) -> Mapping[str, str | None]:
        """Return what is wrong by the name of each part, None for a part that works."""
        stuck = self._caller.stuck if self._caller else 0
        hang = f"{stuck} calls of the host app hang: restart it, or find what it waits for"
        lost = f"{self._workers.lost} threads hang in tools or hooks: the log names the plugins"
        return {
            "journal": self._journal_problem(),
            "host": hang if stuck else None,
            "threads": lost if self._workers.exhausted else None,
            "engines": None if self._plugins.engines else "no engine is loaded: see plugins",
        }

    def _journal_problem(self) -> str | None:
        try:
            self._journal.check()
        except BFError as error:
            return str(error)
        return None


class PluginsResource(Resource):
    """`GET .../plugins`: what is installed and what failed to load; needs an app key."""

    def __init__(self, plugins: Plugins, apps: Apps) -> None:
        self._plugins = plugins
        self._apps = apps

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List plugins, engines and messengers."""
        authenticate(self._apps, req)
        resp.media = {"plugins": [msgspec.to_builtins(report) for report in self._plugins.reports]}
