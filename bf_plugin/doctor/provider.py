"""Whether the provider answers, takes the operator's keys, and knows the configured models.

It is asked for its models (`GET /models`, `GET /models/{id}`), and whether it has responses by a `POST /responses` with
an empty body: that is refused before any model is asked, so it costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from pydantic import SecretStr

from bf_plugin.doctor.asking import Answer, Asker
from bf_plugin.doctor.finding import Finding, failed, ok, shown, skipped
from bf_plugin.engines.openai.clients import DEFAULT_BASE_URL
from bf_plugin.plugins.loaded import Plugins
from bf_plugin.settings import Settings

_ABSENT = (404, 405, 501)
_ADDRESS = "see BF_OPENAI_BASE_URL, network and proxy; with OpenAI, its status page"


@dataclass(slots=True)
class OperatorKey:
    """A provider key: the settings it stands in, and which settings ask for which model with it."""

    value: str = field(repr=False)
    sources: set[str] = field(default_factory=set)
    models: dict[str, set[str]] = field(default_factory=dict)


def check_provider(settings: Settings, plugins: Plugins | None) -> Iterator[Finding]:
    """Ask the provider of the built-in engine, with each of the operator's keys."""
    if other := _other_engine(plugins):
        yield skipped("provider", other)
        return
    base_url = settings.openai_base_url or DEFAULT_BASE_URL
    keys = operator_keys(settings)
    if keys or settings.openai_base_url is not None:
        reached = _reach(Asker(base_url, keys[0].value if keys else None), shown(base_url))
        yield reached
        if reached.status == "failed":
            return
    if not keys:
        yield skipped("provider", "keys and models: no provider key is configured, callers bring theirs")
    for key in keys:
        yield from _check_key(key, Asker(base_url, key.value))


def operator_keys(settings: Settings) -> list[OperatorKey]:
    """Return the provider keys that are configured, each once."""
    keys: dict[str, OperatorKey] = {}

    def note(secret: SecretStr | None, source: str, models: dict[str, str | None]) -> None:
        if not secret:
            return
        key = keys.setdefault(secret.get_secret_value(), OperatorKey(secret.get_secret_value()))
        key.sources.add(source)
        for setting, model in models.items():
            if model:
                key.models.setdefault(model, set()).add(setting)

    everybody = {"BF_MODEL": settings.model} if settings.names("api_keys") or not settings.apps else {}
    note(settings.openai_api_key, "BF_OPENAI_API_KEY", everybody)
    for name, app in settings.apps.items():
        models = {f"apps.{name}.model": app.model} if app.model else {"BF_MODEL": settings.model}
        models |= {f"apps.{name}.assistants.{title}.model": one.model for title, one in app.assistants.items()}
        if app.openai_api_key:
            note(app.openai_api_key, f"apps.{name}.openai_api_key", models)
        else:
            note(settings.openai_api_key, "BF_OPENAI_API_KEY", models)
    return list(keys.values())


def _other_engine(plugins: Plugins | None) -> str | None:
    """Return why the built-in engine need not be asked about."""
    for report in plugins.reports if plugins else ():
        if (report.kind, report.name) == ("engine", "openai") and report.distribution != "bf_plugin":
            return f"engine openai is {report.distribution}'s: which server it asks only it knows"
    return None


def _reach(asker: Asker, place: str) -> Finding:
    """Find out whether there is a server that has responses."""
    answer = asker.ask("GET", "/models")
    if problem := _unwell(answer):
        return failed("provider", f"{place}: {problem}", _ADDRESS)
    responses = asker.ask("POST", "/responses", {})
    if responses.status in _ABSENT:
        advice = "correct BF_OPENAI_BASE_URL: its path is often /v1. Servers that only have chat completions do not do"
        return failed("provider", f"{place} has no /responses ({responses.status})", advice)
    tells = responses.status not in (None, 401, 403)
    return ok("provider", f"{place} answers" + (", and has responses" if tells else ""))


def _unwell(answer: Answer) -> str | None:
    """Return why a server is of no use, whatever was asked with whatever key."""
    if answer.status is None:
        return answer.problem
    if 300 <= answer.status < 400:
        return f"it redirects ({answer.status}), and a POST is not sent on: set the address it leads to"
    return f"it answers {answer.status}" if answer.status >= 500 and answer.status != 501 else None


def _check_key(key: OperatorKey, asker: Asker) -> Iterator[Finding]:
    name = " = ".join(sorted(key.sources))
    listing = asker.ask("GET", "/models")
    if problem := _unwell(listing):
        yield failed("provider", f"{name}: {problem}", _ADDRESS)
    elif listing.status in (401, 403) and _lacks_scope(listing):
        yield skipped("provider", f"{name}: whether models are known: the key may not read the list of models")
    elif listing.status in (401, 403) or _refused(listing, asker):
        advice = f"correct {name}: a key of this provider that has not expired"
        yield failed("provider", f"{name} is refused ({listing.status})", advice)
    elif listing.status == 429:
        yield failed("provider", f"{name} is limited now (429)", "wait, or see the account's quota")
    elif listing.status == 200:
        yield ok("provider", f"{name} is accepted")
        yield from _check_models(key, asker, _ids(listing))
    else:
        yield skipped("provider", f"{name}: whether models are known: GET /models answers {listing.status}")


def _lacks_scope(answer: Answer) -> bool:
    """Tell whether a key is good but restricted: OpenAI says "Missing scopes: api.model.read", with 401 or 403."""
    error = answer.content.get("error") if isinstance(answer.content, dict) else None
    return isinstance(error, dict) and "missing scopes" in str(error.get("message")).lower()


def _refused(listing: Answer, asker: Asker) -> bool:
    """Tell whether a server without a list of models refuses the key elsewhere."""
    return listing.status in _ABSENT and asker.ask("POST", "/responses", {}).status in (401, 403)


def _ids(listing: Answer) -> set[str] | None:
    """Return the names in a list of models, None for an answer that is none."""
    data = listing.content.get("data") if isinstance(listing.content, dict) else None
    if not isinstance(data, list):
        return None
    return {str(model["id"]) for model in data if isinstance(model, dict) and "id" in model}


def _check_models(key: OperatorKey, asker: Asker, known: Collection[str] | None) -> Iterator[Finding]:
    """A name may be known without being listed: an alias, a fine-tuned model."""
    for model, settings in sorted(key.models.items()):
        where = ", ".join(sorted(settings))
        listed = known is not None and model in known
        status = 200 if listed else asker.ask("GET", f"/models/{quote(model, safe='')}").status
        if status == 200:
            yield ok("provider", f"model {model} ({where}) is known")
        elif known is not None and status in _ABSENT:
            near = difflib.get_close_matches(model, known, n=3)
            advice = f"correct {where}" + (f"; known are {', '.join(near)}" if near else "")
            yield failed("provider", f"model {model} ({where}) is not known, or not to this key", advice)
        else:
            yield skipped("provider", f"whether model {model} ({where}) is known: the server does not say")
