"""All parts of one mounted plugin in one process, built when it is first needed and put together here only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import falcon

from bf_plugin.app import create_app
from bf_plugin.apps import create_apps
from bf_plugin.dispatch.local import LocalDispatcher
from bf_plugin.dispatch.owner import Owner
from bf_plugin.driver import Parts
from bf_plugin.health import Health
from bf_plugin.hookcalls import HookCalls
from bf_plugin.host import HostCaller
from bf_plugin.inspection import Inspection
from bf_plugin.journal import RunRecord, open_journal
from bf_plugin.journal.store import default_url
from bf_plugin.loop import LoopThread
from bf_plugin.messengers.host import HostMessenger
from bf_plugin.messengers.port import Messenger
from bf_plugin.plugins import load_plugins
from bf_plugin.runs import Runs
from bf_plugin.settings import Settings
from bf_plugin.threads import Workers
from bf_plugin.waiters import Waiters


class Service:
    """The running plugin. Threads and connections exist from construction to `close`."""

    app: falcon.App[Any, Any]

    def __init__(
        self, host_app: Any, *, name: str | None, settings: Settings, plugins: Iterable[object], has_host: bool
    ) -> None:
        self._caller = HostCaller(host_app, threads=settings.host_threads) if has_host else None
        apps = create_apps(settings, self._caller)
        url = settings.database_url or default_url(name, host_app)
        self._journal = open_journal(url, settings.names("secret_key"))
        self._owner = Owner(self._journal.lock_folder)
        self._plugins = load_plugins(
            plugins,
            disabled=settings.names("plugins_disabled"),
            engine_choices=settings.engine_choices(),
            sections=settings.plugins,
            settings=settings,
        )
        self._workers = Workers("bf-worker", limit=settings.worker_threads)
        hooks = HookCalls(self._plugins.manager, self._workers)
        self._host_messaging = settings.messaging_url is None and self._caller is not None
        self._host_messenger = HostMessenger(self._caller) if self._caller is not None else None
        self._loop = LoopThread()
        parts = Parts(
            journal=self._journal,
            hooks=hooks,
            settings=settings,
            engine=self._plugins.engines.get,
            messenger=self._messenger,
        )
        self._dispatcher = LocalDispatcher(self._loop, parts, self._owner)
        waiters = Waiters(settings.max_waiters or 2)
        self.runs = Runs(
            settings=settings,
            journal=self._journal,
            dispatcher=self._dispatcher,
            hooks=hooks,
            engines=self._plugins.engines,
            host_messaging=self._host_messaging,
            waiters=waiters,
        )
        self._inspection = Inspection(journal=self._journal, waiters=waiters)
        health = Health(journal=self._journal, caller=self._caller, workers=self._workers, plugins=self._plugins)
        self.app = create_app(self.runs, self._inspection, apps, health, settings)
        self._dispatcher.start()

    def close(self) -> None:
        """Hand the runs over and let go of everything."""
        self._inspection.close()
        self._dispatcher.close()
        self._loop.run(self._plugins.aclose()).result(timeout=10)
        self._loop.close()
        self._journal.close()
        self._workers.close()
        if self._caller is not None:
            self._caller.close()

    def _messenger(self, record: RunRecord) -> Messenger | None:
        """Return who brings a run's messages to the gateway."""
        url = record.spec.messaging_url
        return self._host_messenger if url is None else self._plugins.messengers.get(urlsplit(url).scheme)
