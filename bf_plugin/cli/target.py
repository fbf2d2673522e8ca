"""The deployment that `--app` and `--name` name: `runs` and `doctor` look at it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bf_plugin.cli.serve import load_app
from bf_plugin.journal.store import default_url
from bf_plugin.settings import Settings
from bf_plugin.web.mount import Application
from bf_plugin.web.refusal import nothing_else


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is mounted, and how. `host_app` None: no app was named. `settings` None: those of the environment."""

    host_app: Any = None
    name: str | None = None
    settings: Settings | None = field(default=None, repr=False)
    plugins: tuple[object, ...] = ()

    @property
    def default_database(self) -> str:
        """The URL of the database where the settings name none."""
        return default_url(self.name, nothing_else if self.host_app is None else self.host_app)


def find_target(app: str | None, name: str | None) -> Target:
    """Return the deployment of an app, `MODULE:ATTR`, which may have the plugin mounted; `name` wins over its own.

    Raises ClickException where it cannot be loaded.
    """
    if app is None:
        return Target(name=name)
    found = load_app(app)
    mounted = next((one for one in (found, getattr(found, "wsgi_app", None)) if isinstance(one, Application)), None)
    if mounted is None:
        return Target(host_app=found, name=name)
    return Target(
        host_app=mounted.host_app, name=name or mounted.name, settings=mounted.settings, plugins=mounted.plugins
    )
