"""Whether the settings load, go together, and are spelled as they should be."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from bf_plugin.bodies import check_assistants
from bf_plugin.doctor.finding import Finding, failed, ok, skipped
from bf_plugin.errors import ConfigurationError
from bf_plugin.gateway.apps import ConfiguredApps
from bf_plugin.settings import SECRETS, BadSettings, Settings, load_settings

_FILE_ONLY = ("apps", "plugins")
_NAMES = {f"BF_{name.upper()}" for name in Settings.model_fields if name not in _FILE_ONLY}
_NAMES |= {f"BF_{name.upper()}_FILE" for name in SECRETS}


def check_settings(given: Settings | None) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, `given` in code or of the environment, and what was found.

    A setting that is wrong is left out, so that the rest can be looked at; where that does not help they are None.
    """
    found: list[Finding] = []
    settings = given or _loaded(found)
    found += _strangers()
    if settings is not None:
        found += _contradictions(settings)
    if all(finding.status != "failed" for finding in found):
        found.insert(0, ok("settings", _summary(given)))
    return settings, found


def secrets_of(settings: Settings) -> set[str]:
    """Return every secret the settings hold, the database's password among them."""
    try:
        password = urlsplit(settings.database_url or "").password
    except ValueError:
        password = None
    texts = [text for name in SECRETS for text in settings.names(name)]
    keys = [key for app in settings.apps.values() for key in (*app.api_keys, *app.keys_by_provider.values())]
    return {*texts, *(key.get_secret_value() for key in keys), *([password] if password else ())}


def _loaded(found: list[Finding]) -> Settings | None:
    try:
        return load_settings()
    except BadSettings as error:
        found += [failed("settings", f"{name}: {problem}", _advice(name)) for name, problem in error.problems]
        bad = {name.removeprefix("BF_").lower() for name, _ in error.problems}
    try:
        return load_settings(**{name: Settings.model_fields[name].default for name in bad})
    except (BadSettings, KeyError):
        return None


def _advice(name: str) -> str:
    return f"correct {name}, or leave it out; the table of settings in docs/operating.md says what it takes"


def _strangers() -> Iterator[Finding]:
    """Find misspelled names: nobody else complains about them."""
    for name in sorted(name for name in os.environ if name.startswith("BF_") and name not in _NAMES):
        if near := difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.8):
            yield failed("settings", f"{name} is no setting, and is ignored", f"did you mean {near[0]}?")
        else:
            yield skipped("settings", f"{name} is no setting of bf_plugin: whatever reads it, this does not")


def _contradictions(settings: Settings) -> Iterator[Finding]:
    checks: tuple[Callable[[Settings], object], ...] = (ConfiguredApps, check_assistants)
    for check in checks:
        try:
            check(settings)
        except ConfigurationError as error:
            yield failed("settings", str(error))


def _summary(given: Settings | None) -> str:
    names = sorted(name for name in _NAMES if os.environ.get(name))
    source = "those the app is mounted with; " if given is not None else ""
    return f"{source}the environment sets {', '.join(names) or 'nothing'}"
