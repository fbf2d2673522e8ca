"""Loading plugins, engines and messengers: the defaults, the installed ones, the given ones; and a report on each."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import pluggy

from bf_plugin.errors import ConfigurationError, PluginError
from bf_plugin.gateway.messengers.port import Messenger, scheme_of
from bf_plugin.plugins import defaults, entrypoints, guards
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.entrypoints import Candidate, Kind
from bf_plugin.runtime.logs import get_logger, in_short
from bf_plugin.settings import Settings, load_settings

if TYPE_CHECKING:
    from bf_plugin.engines.port import Engine

_PORTS: Mapping[Kind, tuple[str, ...]] = {
    "engine": ("start", "cancel", "cut", "aclose"),
    "messenger": ("send", "aclose"),
}

_CLOSE_TIMEOUT = 5.0

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
        await asyncio.wait_for(aclose(), _CLOSE_TIMEOUT)
    except asyncio.TimeoutError:
        _log.error("%s hangs in aclose: it is left behind", title)
    except Exception as error:
        _log.error("%s failed in aclose: %s", title, error, error=error)


def load_plugins(
    given: Iterable[object] = (),
    *,
    settings: Settings | None = None,
    engines: Mapping[str, Engine] | None = None,
    new_context: Callable[..., PluginContext] = PluginContext,
) -> Plugins:
    """Load defaults, installed plugins and the `given` ones, in this order: pluggy calls the last first.

    What cannot be loaded is logged and reported, the rest still load. A given plugin takes the place of an installed
    one of its name, and so do `engines`. `new_context` makes what factories are called with; `settings` default to the
    environment. Raises ConfigurationError when the engine or messenger to use for a name is open.
    """
    loader = _Loader(settings or load_settings(), new_context)
    own = [candidate_of(thing) for thing in given]
    names = {candidate.name for candidate in own}
    for name in defaults.NAMES:
        module = importlib.import_module(f"bf_plugin.plugins.defaults.{name}")
        loader.plugin(Candidate(kind="plugin", name=name, given=module))
    for candidate in entrypoints.find("plugin"):
        if candidate.name in names:
            loader.report(candidate, "replaced", problem="a plugin of this name was given in code")
        else:
            loader.plugin(candidate)
    for candidate in own:
        loader.plugin(candidate)
    try:
        used, messengers = loader.ports("engine", engines or {}), loader.ports("messenger", {})
    except ConfigurationError:
        Plugins(manager=loader.manager, engines={}, messengers={}, reports=()).close()
        raise
    return Plugins(
        manager=loader.manager,
        engines=MappingProxyType(used),
        messengers=MappingProxyType(messengers),
        reports=tuple(loader.reports),
    )


class _Loader:
    def __init__(self, settings: Settings, new_context: Callable[..., PluginContext]) -> None:
        self.manager = guards.new_manager()
        self.reports: list[PluginReport] = []
        self._settings = settings
        self._disabled = settings.names("plugins_disabled")
        self._new_context = new_context

    def report(self, candidate: Candidate, status: Any, **more: Any) -> None:
        """Note what became of a candidate; failures are logged as well."""
        report = PluginReport(
            name=candidate.name,
            kind=candidate.kind,
            status=status,
            distribution=candidate.distribution,
            version=candidate.version,
            **more,
        )
        self.reports.append(report)
        if status == "failed":
            source = f" of {report.distribution} {report.version}" if report.distribution else ""
            _log.error("%s %s%s is not loaded: %s", report.kind, report.name, source, report.problem)

    def plugin(self, candidate: Candidate) -> None:
        """Load and register a plugin."""
        if self._is_disabled(candidate):
            return
        try:
            thing = candidate.load()
            plugin = self._called(candidate, thing) if is_factory(thing) else thing
            hooks = guards.register(self.manager, candidate.name, plugin)
        except Exception as error:
            self.report(candidate, "failed", problem=_problem(error))
        else:
            self.report(candidate, "ok", hooks=hooks)

    def ports(self, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
        """Load the engines or messengers to be used, by name; those that are given are used as they are."""
        candidates = [candidate for candidate in entrypoints.find(kind) if not self._is_disabled(candidate)]
        choices = self._settings.engine_choices() if kind == "engine" else {}
        chosen = entrypoints.choose([one for one in candidates if one.name not in given], choices)
        loaded = dict(given)
        for candidate in candidates:
            if candidate.name in given:
                self.report(candidate, "replaced", problem=f"an {kind} of this name was given in code")
            elif candidate is not chosen[candidate.name]:
                self.report(candidate, "replaced", problem=f"{chosen[candidate.name].distribution} is used instead")
            elif (port := self._port(candidate)) is not None:
                loaded[candidate.name] = port
        return loaded

    def _is_disabled(self, candidate: Candidate) -> bool:
        if candidate.name in self._disabled:
            self.report(candidate, "disabled", problem="BF_PLUGINS_DISABLED names it")
            return True
        return False

    def _port(self, candidate: Candidate) -> Any:
        try:
            port = self._called(candidate, candidate.load())
            missing = [name for name in _PORTS[candidate.kind] if not callable(getattr(port, name, None))]
            if missing:
                raise PluginError(candidate.name, f"is no {candidate.kind}: it has no {', '.join(missing)}")
        except Exception as error:
            self.report(candidate, "failed", problem=_problem(error))
            return None
        self.report(candidate, "ok")
        return port

    def _called(self, candidate: Candidate, factory: Any) -> Any:
        section = MappingProxyType(dict(self._settings.plugins.get(candidate.name, {})))
        context = self._new_context(name=candidate.name, section=section, settings=self._settings)
        try:
            return factory(context)
        except (Exception, SystemExit) as error:
            problem = f"its factory failed: {in_short(error)}"
            raise PluginError(candidate.name, problem) from error


def is_factory(thing: object) -> bool:
    """Tell whether something makes a plugin when it is called, and is no plugin itself."""
    return callable(thing) and (inspect.isclass(thing) or not guards.implementations(guards.new_manager(), thing))


def candidate_of(thing: object) -> Candidate:
    """Name an object given in code: by its `name`, by what Python calls it, else by its class."""
    names = (getattr(thing, "name", None), getattr(thing, "__name__", None), type(thing).__name__)
    return Candidate(kind="plugin", name=next(name for name in names if name and isinstance(name, str)), given=thing)


def _problem(error: Exception) -> str:
    return error.problem if isinstance(error, PluginError) else in_short(error)
