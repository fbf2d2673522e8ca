"""Loading plugins, engines and messengers: the defaults, the installed ones, the given ones."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bf_plugin.errors import ConfigurationError, PluginError
from bf_plugin.plugins import defaults, entrypoints, guards
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.entrypoints import Candidate, Kind
from bf_plugin.plugins.loaded import PluginReport, Plugins
from bf_plugin.runtime.logs import get_logger, in_short
from bf_plugin.settings import Settings, load_settings

if TYPE_CHECKING:
    from bf_plugin.engines.port import Engine

_PORTS: Mapping[Kind, tuple[str, ...]] = {
    "engine": ("start", "cancel", "cut", "aclose"),
    "messenger": ("send", "aclose"),
}

_log = get_logger(__name__)


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
