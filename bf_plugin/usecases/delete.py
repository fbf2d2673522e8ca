"""Deleting a thread: what the journal has of it, and what its provider keeps where a key is at hand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Literal

from bf_plugin.engines.port import Access, BaseEngine
from bf_plugin.errors import BFError, RequestError, invalid
from bf_plugin.gateway.apps import App
from bf_plugin.journal import Journal, ThreadBusy, UnknownThread
from bf_plugin.journal.threads import Kept
from bf_plugin.journal.writer import written
from bf_plugin.run.exchange import engine_key
from bf_plugin.runtime.ids import is_ours
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.loop import LoopThread
from bf_plugin.usecases.admission import Admission

ENDING_TIMEOUT = 2.0
"""Seconds for which a run that has its outcome already may still hold its thread."""

TIMEOUT = 20.0
"""Seconds the provider may take; what is not deleted by then counts as kept."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of the providers' parts, and why something is kept if it is."""

    provider: Literal["nothing", "deleted", "kept"]
    message: str | None = None


class Deletion:
    """Deletes threads. Called in request threads."""

    def __init__(
        self, *, journal: Journal, engines: Mapping[str, BaseEngine], loop: LoopThread, admission: Admission
    ) -> None:
        self._runs = journal.runs
        self._threads = journal.threads
        self._engines = engines
        self._loop = loop
        self._admission = admission
        self._log = get_logger(__name__)

    def delete(self, thread_id: str, app: App, provider_key: str | None) -> Deleted:
        """Delete a thread of an app; `provider_key` is the caller's, if it sent one.

        Raises RequestError 404 for a thread the app does not have, 409 while it has a run under way; one that is merely
        ending is waited for. The journal comes first, so a provider that fails cannot keep a person's words here.
        """
        if not (is_ours(thread_id) and self._runs.has_thread(thread_id, app.id)):
            raise _unknown()
        with self._admission.waiting() as may_wait:
            if not may_wait:
                raise RequestError(503, "too many requests wait: try later", retry_after=1)
            kept = self._threads.kept(thread_id)
            self._delete_here(thread_id, app)
            return _together([self._forget(one, app, provider_key) for one in kept])

    def _delete_here(self, thread_id: str, app: App) -> None:
        """Delete what the journal has. A page that has seen `end` may be faster than the run's driver."""
        give_up = time.monotonic() + ENDING_TIMEOUT
        while True:
            try:
                return written(self._threads.delete(thread_id, app.id))
            except UnknownThread:
                raise _unknown() from None
            except ThreadBusy as busy:
                run = self._runs.find(busy.run_id)
                ending = run is None or run.outcome is not None
                if not ending or time.monotonic() > give_up:
                    raise RequestError(409, "the thread has a run under way: stop it or wait", retry_after=1) from None
            time.sleep(0.02)  # what frees the thread is a write of the driver's, a matter of milliseconds

    def _forget(self, kept: Kept, app: App, provider_key: str | None) -> Deleted:
        engine = self._engines.get(kept.provider)
        if engine is not None and engine.stateless:
            return Deleted("nothing")
        if engine is None or not engine.can_forget:
            return Deleted("kept", f"deleting is not supported for provider {kept.provider}")
        access = _access(kept, app, provider_key)
        if access is None:
            return Deleted("kept", "the key it is stored under is not at hand: send it as X-Provider-Key")
        asked = self._loop.run(engine.forget(kept.names, access))
        try:
            gone = asked.result(TIMEOUT)
        except (BFError, FutureTimeoutError) as error:
            asked.cancel()
            self._log.warning("cannot delete a thread at its provider: %s", str(error) or "no answer in time")
            gone = False
        return Deleted("deleted") if gone else Deleted("kept", "the provider did not delete all of it")


def _access(kept: Kept, app: App, provider_key: str | None) -> Access | None:
    """Return the access under which the provider keeps it, None if its key is not at hand."""
    operators = app.provider_keys.get(kept.provider)
    likely = operators if kept.operator_key else provider_key
    for key in (provider_key, operators):
        access = Access(api_key=key or "", base_url=kept.base_url)
        known = key == likely if kept.engine_key is None else engine_key(kept.provider, access) == kept.engine_key
        if key and known:
            return access
    return None


def _together(parts: Sequence[Deleted]) -> Deleted:
    """Return what became of a thread that several providers have answered in."""
    kept = dict.fromkeys(part.message for part in parts if part.provider == "kept")
    if kept:
        return Deleted("kept", "; ".join(filter(None, kept)))
    return Deleted("deleted" if any(part.provider == "deleted" for part in parts) else "nothing")


def _unknown() -> RequestError:
    return invalid("threadId", "is not known to this app", 404)
