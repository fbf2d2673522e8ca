"""Health, readiness, and what is installed."""

from __future__ import annotations

import falcon

from bf_plugin.gateway.apps import Apps
from bf_plugin.web.health import Health
from bf_plugin.web.resources.runs import authenticate


class HealthzResource:
    """`GET .../healthz`: this process answers."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer; nothing is looked at."""
        resp.media = {"status": "ok"}


class ReadyzResource:
    """`GET .../readyz`: this process can serve."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer 200, or 503 with what is wrong."""
        checks = {
            name: {"ok": True} if problem is None else {"ok": False, "problem": problem}
            for name, problem in self._health.checks().items()
        }
        ready = all(check["ok"] for check in checks.values())
        resp.status = falcon.HTTP_200 if ready else falcon.HTTP_503
        resp.media = {"status": "ok" if ready else "failing", "checks": checks}


class PluginsResource:
    """`GET .../plugins`: what is installed and what failed to load; needs an app key."""

    def __init__(self, health: Health, apps: Apps) -> None:
        self._health = health
        self._apps = apps

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List plugins, engines and messengers."""
        authenticate(self._apps, req, None)
        resp.media = {"plugins": self._health.plugins()}
