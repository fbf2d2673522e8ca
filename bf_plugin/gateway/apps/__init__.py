"""Who may start runs: app keys to applications. Resources ask in request threads."""

from __future__ import annotations

from bf_plugin.errors import ConfigurationError
from bf_plugin.gateway.apps.asked import Ask, AskAnswer, AskedApps, ask_host, ask_remote, made_up_key
from bf_plugin.gateway.apps.configured import ConfiguredApps, listed_apps
from bf_plugin.gateway.apps.port import App, Apps, key_digest
from bf_plugin.gateway.host import HostCaller
from bf_plugin.settings import Settings

__all__ = [
    "App",
    "Apps",
    "Ask",
    "AskAnswer",
    "AskedApps",
    "ConfiguredApps",
    "ask_host",
    "ask_remote",
    "create_apps",
    "key_digest",
    "listed_apps",
    "made_up_key",
]


def create_apps(settings: Settings, host_caller: HostCaller | None) -> Apps:
    """Return the source of apps the settings ask for: configured keys, else a remote gateway, else the host app.

    Raises ConfigurationError when there is none of them, or when two apps share a key.
    """
    if settings.names("api_keys") or settings.apps:
        return ConfiguredApps(settings)
    if settings.messaging_url is not None:
        return AskedApps(ask_remote(settings.messaging_url), settings)
    if host_caller is not None:
        return AskedApps(ask_host(host_caller), settings)
    raise ConfigurationError("nobody to ask for app keys: set BF_API_KEYS, BF_APPS_FILE or BF_MESSAGING_URL")
