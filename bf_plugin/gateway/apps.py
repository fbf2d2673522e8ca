"""Whom an app key stands for: the port, and the apps that the operator lists in the settings.

Resources ask in request threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import SecretStr

from bf_plugin.errors import ConfigurationError, invalid
from bf_plugin.settings import AppSettings, AssistantSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An application, authenticated. `id` is its identity in the journal and says nothing about its key.

    `provider_keys` are the operator's, by provider. `allowed_*` say what may be used with one of those.
    """

    id: str
    api_key: str = field(repr=False)
    messaging_url: str | None = None
    provider_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    instructions: str | None = field(default=None, repr=False)
    assistants: Mapping[str, AssistantSettings] = field(default_factory=dict, repr=False)
    allowed_files: frozenset[str] = frozenset()
    allowed_vector_stores: frozenset[str] = frozenset()
    allowed_containers: frozenset[str] = frozenset()
    max_runs: int | None = None


class Apps(Protocol):
    """Knows the apps. Called in request threads; may block for up to 5 s."""

    def authenticate(self, api_key: str, environ: Mapping[str, Any]) -> App:
        """Return the app of a key. Raises RequestError 401 for an unknown key, 503 when that cannot be found out."""
        ...


def key_digest(api_key: str) -> str:
    """Return the identity of a key that has no name: a digest, since the key itself is never stored in the clear."""
    return "key-" + hashlib.sha256(b"bf_plugin app key\0" + api_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ConfiguredApps:
    """The apps of `BF_API_KEYS` (each key an app of its own) and `BF_APPS_FILE` (an app by name, with its keys).

    Keys are looked up by a SHA-256 digest. How long a lookup takes may tell something about the digest of the key
    that was sent, which is nothing about any key that is valid; so it is as good as comparing in constant time with
    every key, and does not grow with their number.
    """

    def __init__(self, settings: Settings) -> None:
        self._apps: dict[str, App] = {}
        for source, app in listed_apps(settings):
            other = self._apps.setdefault(key_digest(app.api_key), app)
            if other.id != app.id:
                raise ConfigurationError(f"{source}: one of its keys is also another app's; keys tell apps apart")

    def authenticate(self, api_key: str, environ: Mapping[str, Any]) -> App:
        """Return the app of a key. Raises RequestError 401 for an unknown one."""
        app = self._apps.get(key_digest(api_key))
        if app is None:
            raise invalid("apiKey", "is not valid", 401)
        return app


def listed_apps(settings: Settings) -> Iterator[tuple[str, App]]:
    """Yield each configured key with its app, and the setting it stands in. ConfigurationError for an empty one."""
    for key in settings.names("api_keys"):
        yield "BF_API_KEYS", _app(key_digest(key), key, AppSettings(api_keys=[SecretStr(key)]), settings)
    for name, listed in settings.apps.items():
        for secret in listed.api_keys:
            if not (key := secret.get_secret_value().strip()):
                raise ConfigurationError(f"BF_APPS_FILE: apps.{name}.api_keys has an empty key")
            yield f"BF_APPS_FILE: apps.{name}", _app(name, key, listed, settings)


def _app(app_id: str, key: str, listed: AppSettings, settings: Settings) -> App:
    keys = {**settings.keys_by_provider, **listed.keys_by_provider}
    return App(
        id=app_id,
        api_key=key,
        messaging_url=listed.messaging_url or settings.messaging_url,
        provider_keys={name: secret.get_secret_value() for name, secret in keys.items()},
        model=listed.model or settings.model,
        instructions=listed.instructions,
        assistants=listed.assistants,
        allowed_files=frozenset(listed.allowed_files),
        allowed_vector_stores=frozenset(listed.allowed_vector_stores),
        allowed_containers=frozenset(listed.allowed_containers),
        max_runs=listed.max_runs,
    )
