"""What was loaded for one mount: plugins, engines and messengers, from their start to their end; a report on each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bf_plugin.errors import ConfigurationError
from bf_plugin.gateway.messengers import Messenger, scheme_of
from bf_plugin.plugins.entrypoints import Kind
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.runtime.workers import done_within
from bf_plugin.settings import Settings

if TYPE_CHECKING:
    import pluggy

    from bf_plugin.engines.port import Engine

_PART_TIMEOUT = 5.0
"""Seconds the `aclose` of one part may take."""

_TIMEOUT = 10.0
"""Seconds that all of them may take together, and all `close`."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginReport:
    """What became of one plugin, engine or messenger; `problem` says why it is not `ok`.

    `distribution` and `version` are None for objects given to `mount` and for defaults.
    """

    name: str
    kind: Kind
    status: Literal["ok", "failed", "disabled", "replaced"]
    distribution: str | None = None
    version: str | None = None
    hooks: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """Everything that was loaded for one mount. Engines by provider name, messengers by URL scheme."""

    manager: pluggy.PluginManager = field(repr=False)
    engines: Mapping[str, Engine]
    messengers: Mapping[str, Messenger]
    reports: Sequence[PluginReport]

    def warm_up(self) -> None:
        """Call the `warm_up` of engines, messengers and plugins that have one: what takes long, before the first run.

        Failures are logged. It may block.
        """
        for title, part in self._parts():
            _call(title, part, "warm_up")

    def require(self, names: Iterable[str]) -> None:
        """Raise ConfigurationError when a plugin of these names was not loaded.

        Callers are told that message, so what a failing factory said is left to the log.
        """
        for name in names:
            states = {one.status for one in self.reports if (one.kind, one.name) == ("plugin", name)}
            if "ok" not in states:
                why = "the log and `bf-plugin plugins` say why" if states else "no such plugin is installed"
                raise ConfigurationError(f"BF_PLUGINS_REQUIRED: plugin {name} is not loaded: {why}")

    def check(self, settings: Settings) -> None:
        """Raise ConfigurationError when the settings name a plugin, engine or messenger that is not there.

        Nobody would hear of the runs of a URL that no messenger serves; a key without its engine would never be used.
        """
        self.require(settings.names("plugins_required"))
        urls = {"BF_MESSAGING_URL": settings.messaging_url}
        urls |= {f"apps.{name}.messaging_url": app.messaging_url for name, app in settings.apps.items()}
        for setting, url in urls.items():
            if url is not None and scheme_of(url) not in self.messengers:
                known = ", ".join(f"{scheme}://" for scheme in sorted(self.messengers)) or "none"
                raise ConfigurationError(f"{setting}: no messenger is installed for its scheme; installed are: {known}")
        for name, app in settings.apps.items():
            for provider in sorted(app.provider_keys.keys() - self.engines.keys()):
                known = ", ".join(sorted(self.engines)) or "none"
                where = f"apps.{name}.provider_keys.{provider}"
                raise ConfigurationError(f"{where}: no engine of this name is installed; installed are: {known}")

    def close_on(self, loop: LoopThread) -> None:
        """Close everything: first `aclose` on the loop, then `close` in a thread. What hangs is left behind."""
        try:
            loop.run(self.aclose()).result(_TIMEOUT)
        except FutureTimeoutError:
            _log.error("an engine, a messenger or a plugin hangs in its aclose: it is left behind")
        if not done_within(_TIMEOUT, self.close):
            _log.error("a plugin hangs in its close: it is left behind")

    async def aclose(self) -> None:
        """Await the `aclose` of engines, messengers and those plugins that have one, all at once.

        Failures are logged, and what takes longer than 5 s is left behind.
        """
        await asyncio.gather(*(_aclose(title, part) for title, part in self._parts()))

    def close(self) -> None:
        """Close plugins that have a `close`, the last registered first. Failures are logged. It may block."""
        for title, plugin in reversed(self._plugins()):
            _call(title, plugin, "close")

    def _parts(self) -> list[tuple[str, object]]:
        """Return all of it, with what the log calls it."""
        engines = [(f"engine {name}", engine) for name, engine in self.engines.items()]
        messengers = [(f"messenger {name}", messenger) for name, messenger in self.messengers.items()]
        return [*engines, *messengers, *self._plugins()]

    def _plugins(self) -> list[tuple[str, object]]:
        return [(f"plugin {name}", getattr(one, "plugin", None)) for name, one in self.manager.list_name_plugin()]


def _call(title: str, part: object, method: str) -> None:
    """Call a method that authors may leave out."""
    function = getattr(part, method, None)
    if callable(function):
        try:
            function()
        except Exception as error:
            _log.error("%s failed in %s: %s", title, method, error, error=error)


async def _aclose(title: str, part: object) -> None:
    aclose = getattr(part, "aclose", None)
    if not callable(aclose):
        return
    try:
        await asyncio.wait_for(aclose(), _PART_TIMEOUT)
    except asyncio.TimeoutError:
        _log.error("%s hangs in aclose: it is left behind", title)
    except Exception as error:
        _log.error("%s failed in aclose: %s", title, error, error=error)
