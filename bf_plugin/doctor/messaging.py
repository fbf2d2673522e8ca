"""Whether the gateway knows the app keys, knows no others, and takes messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bf_plugin.doctor.finding import Finding, failed, skipped
from bf_plugin.doctor.gateway import Gateway, Receiver
from bf_plugin.errors import ConfigurationError
from bf_plugin.gateway.apps import App, ConfiguredApps, key_digest, listed_apps
from bf_plugin.settings import Settings

Labelled = tuple[str, App]
"""An app with one of its keys, and what to call that key without showing it."""


def check_messaging(
    settings: Settings, gateway: Gateway, *, channel: str | None, app_key: str | None
) -> Iterator[Finding]:
    """Ask about keys as starts do; with a `channel`, send a test message there for each app.

    `app_key` is the key to do it with; default is every key that is configured.
    """
    try:
        ConfiguredApps(settings)  # two apps with one key cannot be told apart here either
        configured = list(listed_apps(settings))
    except ConfigurationError:
        yield skipped("messaging", "the app keys contradict each other: see settings")
        return
    keys = _labelled(configured) if configured else _given(settings, app_key)
    if configured and app_key is not None:
        keys = [(label, app) for label, app in keys if app.api_key == app_key]
        if not keys:
            yield failed("messaging", "the key of --app-key is none of those configured", "give one of them, or add it")
            return
    urls = dict.fromkeys(app.messaging_url for _, app in keys) if configured else [settings.messaging_url]
    for url in urls:
        receiver = Receiver(gateway, url, asked=not configured)
        yield from _check_receiver(receiver, [key for key in keys if key[1].messaging_url == url], settings, channel)


def _labelled(configured: Sequence[tuple[str, App]]) -> list[Labelled]:
    """Name each key by the setting it stands in, and its place there."""
    number: Counter[str] = Counter()
    labelled = []
    for source, app in configured:
        number[source] += 1
        labelled.append((f"key {number[source]} of {source.removeprefix('BF_APPS_FILE: ')}", app))
    return labelled


def _given(settings: Settings, app_key: str | None) -> list[Labelled]:
    if app_key is None:
        return []
    return [("the key given", App(id=key_digest(app_key), api_key=app_key, messaging_url=settings.messaging_url))]


def _check_receiver(
    receiver: Receiver, keys: Sequence[Labelled], settings: Settings, channel: str | None
) -> Iterator[Finding]:
    if not receiver.reachable:
        yield receiver.unreachable()
        return
    probe, tells = receiver.probe()
    yield probe
    if tells:
        yield from (receiver.ask(label, app) for label, app in keys)
        if not keys:
            yield skipped("messaging", "whether a valid key is accepted: give one with --app-key")
    if channel is None:
        yield skipped("messaging", "whether messages are taken: name a channel with --channel, for a test message")
    elif not keys:
        yield skipped("messaging", "a test message needs an app key: give one with --app-key")
    else:
        first = {app.id: (label, app) for label, app in reversed(keys)}
        yield from (receiver.send(label, app, channel, settings.event_style) for label, app in reversed(first.values()))
