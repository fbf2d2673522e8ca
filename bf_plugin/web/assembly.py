"""All parts of one mounted plugin in one process. `mount` builds them when it first needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from bf_plugin.bodies import check_assistants
from bf_plugin.dispatch import create_dispatcher
from bf_plugin.engines.adapted import adapted
from bf_plugin.engines.port import Engine
from bf_plugin.gateway.asking import create_apps
from bf_plugin.gateway.host import HostCaller
from bf_plugin.gateway.messengers import HostMessenger, Messenger, scheme_of
from bf_plugin.journal import RunRecord, open_journal
from bf_plugin.journal.store import default_url
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.plugins.lease import Lease, lend
from bf_plugin.plugins.loading import load_plugins
from bf_plugin.run.driver import Parts
from bf_plugin.run.pace import Pace
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.usecases.admission import Admission
from bf_plugin.usecases.delete import Deletion
from bf_plugin.usecases.inspection import Inspection
from bf_plugin.usecases.once import Once
from bf_plugin.usecases.retain import Retention
from bf_plugin.usecases.start import Starts
from bf_plugin.usecases.stop import Stops
from bf_plugin.web.app import create_app
from bf_plugin.web.health import ReadyzResource
from bf_plugin.web.refusal import nothing_else


class Service:
    """The running plugin. Threads and connections exist from construction to `close`."""

    def __init__(
        self,
        host_app: Any,
        *,
        name: str | None,
        settings: Settings,
        plugins: Iterable[object] = (),
        engines: Mapping[str, Engine] | None = None,
    ) -> None:
        with ExitStack() as opened:  # it closes the last part first, and all of them when a later one cannot be made
            caller = None
            if host_app is not nothing_else:
                caller = HostCaller(host_app, threads=settings.host_threads)
                opened.callback(caller.close)
            apps = create_apps(settings, caller)
            check_assistants(settings)
            workers = Workers("bf-worker", limit=settings.worker_threads)
            opened.callback(workers.close)
            journal = open_journal(settings.database_url or default_url(name, host_app), settings.names("secret_key"))
            opened.callback(journal.close)
            loop = LoopThread()
            opened.callback(loop.close)
            lease = Lease(loop)
            opened.callback(lease.close)
            self._plugins = load_plugins(plugins, settings=settings, engines=engines, new_context=lend(journal, lease))
            opened.callback(self._plugins.close_on, loop)
            self._plugins.check(settings)
            used = {name: adapted(engine) for name, engine in self._plugins.engines.items()}
            self._hooks = hooks = HookCalls(self._plugins.manager, workers)
            self._host_messenger = None if caller is None else HostMessenger(caller)
            parts = Parts(
                journal=journal,
                hooks=hooks,
                settings=settings,
                pace=Pace(settings.coalesce_ms / 1000),
                engine=used.get,
                messenger=self._messenger,
            )
            host_messaging = settings.messaging_url is None and caller is not None
            dispatcher = create_dispatcher(loop, parts, (name or "") if host_messaging else None)
            opened.callback(dispatcher.close)
            lease.count = dispatcher.active
            admission = Admission(
                max_runs=settings.max_runs, max_waiters=settings.max_waiters or 2, active=dispatcher.active
            )
            stops = Stops(journal=journal, dispatcher=dispatcher)
            starts = Starts(
                settings=settings,
                runs=journal.runs,
                dispatcher=dispatcher,
                hooks=hooks,
                engines=used,
                host_messaging=host_messaging,
                admission=admission,
                stops=stops,
            )
            self.knows_tool_call = stops.knows_tool_call
            once = Once(starts=starts, journal=journal, admission=admission)
            inspection = Inspection(journal=journal, admission=admission)
            opened.callback(inspection.close)
            deletion = Deletion(journal=journal, engines=used, loop=loop, admission=admission)
            ready = ReadyzResource(journal=journal, caller=caller, workers=workers, plugins=self._plugins)
            dispatcher.start()
            loop.run(Retention(journal, settings.retention_days).run())
            self._warming = threading.Thread(target=self._plugins.warm_up, name="warm-up", daemon=True)
            self._warming.start()
            self.app = create_app(once, stops, inspection, deletion, apps, ready, self._plugins, settings)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Hand the runs over and close everything, whichever part fails."""
        self._opened.close()

    def wait_until_warm(self) -> None:
        """Return when everything is loaded: a process that forks during an import could never finish it."""
        self._warming.join()

    def _messenger(self, record: RunRecord) -> Messenger | None:
        """Return the messenger of a run."""
        url = record.spec.messaging_url
        return self._host_messenger if url is None else self._plugins.messengers.get(scheme_of(url))
