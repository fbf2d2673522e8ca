"""The whole check-up: every part of a deployment is looked at, one after the other, and no failure hides the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.doctor.database import check_database
from bf_plugin.doctor.finding import PARTS, Finding, Part, failed, skipped
from bf_plugin.doctor.gateway import Gateway
from bf_plugin.doctor.messaging import check_messaging
from bf_plugin.doctor.plugins import check_plugins
from bf_plugin.doctor.provider import check_provider
from bf_plugin.doctor.settings import check_settings, secrets_of
from bf_plugin.errors import BFError
from bf_plugin.gateway.host import HostCaller
from bf_plugin.runtime.logs import place_of
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The deployment to look at, and what to try on it.

    `settings` None: those of the environment. `database` is the URL used where they name none, None if that is not
    known. `environ` stands for that of a start's request, where the host app is called in-process.
    """

    host_app: Any = None
    settings: Settings | None = field(default=None, repr=False)
    plugins: Iterable[object] = ()
    database: str | None = None
    environ: Mapping[str, Any] = field(default_factory=dict, repr=False)
    channel: str | None = None
    app_key: str | None = field(default=None, repr=False)


def check_up(subject: Subject) -> Iterator[Finding]:
    """Look at every part, and yield each finding at once. It changes nothing, and sends at most test messages."""
    settings, found = check_settings(subject.settings)
    secrets = {subject.app_key or ""} | (secrets_of(settings) if settings else set())
    yield from (finding.without(secrets) for finding in found)
    if settings is None:
        yield from (skipped(part, "cannot be looked at without the settings") for part in PARTS[1:])
        return
    with ExitStack() as opened:
        yield from (finding.without(secrets) for finding in _check(subject, settings, opened))


def _check(subject: Subject, settings: Settings, opened: ExitStack) -> Iterator[Finding]:
    loop = LoopThread()
    opened.callback(loop.close)
    plugins, found = check_plugins(settings, subject.plugins)
    yield from found
    if plugins is not None:
        opened.callback(plugins.close_on, loop)
    url = settings.database_url or subject.database
    if url is None:
        yield skipped("database", "where it lies depends on the app")
    else:
        yield from _guarded("database", check_database(url, settings))
    yield from _guarded("provider", check_provider(settings, plugins))
    caller = None if subject.host_app is None else HostCaller(subject.host_app, threads=settings.host_threads)
    if caller is not None:
        opened.callback(caller.close)
    messengers = plugins.messengers if plugins else {}
    gateway = Gateway(messengers=messengers, loop=loop, caller=caller, environ=subject.environ)
    messaging = check_messaging(settings, gateway, channel=subject.channel, app_key=subject.app_key)
    yield from _guarded("messaging", messaging)


def _guarded(part: Part, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Make a finding of an error, so that the later checks are made too."""
    try:
        yield from findings
    except BFError as error:
        yield failed(part, str(error))
    except Exception as error:  # its text may quote anything
        yield failed(part, f"the check itself failed: {type(error).__name__}{place_of(error)}", "please report it")
