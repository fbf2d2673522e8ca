"""Whether plugins, engines and messengers load."""

from __future__ import annotations

from collections.abc import Iterable

from bf_plugin.doctor.finding import Finding, failed, ok
from bf_plugin.errors import ConfigurationError
from bf_plugin.plugins.loaded import PluginReport, Plugins
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.settings import Settings


def check_plugins(settings: Settings, given: Iterable[object]) -> tuple[Plugins | None, list[Finding]]:
    """Load everything as a start does; return it, None where the start would fail, and what was found."""
    try:
        plugins = load_plugins(given, settings=settings)
    except ConfigurationError as error:
        return None, [failed("plugins", str(error))]
    found = [_failure(report) for report in plugins.reports if report.status == "failed"]
    try:
        plugins.require(settings.names("plugins_required"))
    except ConfigurationError as error:
        found.append(failed("plugins", str(error), "without it nothing starts: install or correct it"))
    if not plugins.engines:
        found.append(failed("plugins", "no engine is loaded: no run can ask a model", "see BF_PLUGINS_DISABLED"))
    return plugins, found or [ok("plugins", _summary(plugins))]


def _failure(report: PluginReport) -> Finding:
    source = f" of {report.distribution} {report.version}" if report.distribution else ""
    advice = f"bring it up to date or tell its author; until then BF_PLUGINS_DISABLED={report.name} leaves it out"
    return failed("plugins", f"{report.kind} {report.name}{source}: {report.problem}", advice)


def _summary(plugins: Plugins) -> str:
    names = {
        "plugins": [report.name for report in plugins.reports if (report.kind, report.status) == ("plugin", "ok")],
        "engines": plugins.engines,
        "messengers": plugins.messengers,
    }
    return "; ".join(f"{kind}: {', '.join(sorted(some)) or 'none'}" for kind, some in names.items())
