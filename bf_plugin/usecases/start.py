"""Starting a run: what is checked and in which order, how it comes on record, and how its caller waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from typing import Any

from bf_plugin.bodies import StartRequest, check_operator_resources, merge_assistant
from bf_plugin.dispatch import Dispatcher
from bf_plugin.engines.port import BaseEngine
from bf_plugin.errors import RequestError, invalid
from bf_plugin.gateway.apps import App
from bf_plugin.journal import RunRecord, RunSpec, Secrets, ThreadBusy, UnknownThread
from bf_plugin.journal.keys import Claim
from bf_plugin.journal.records import shared
from bf_plugin.journal.runs import RunStore
from bf_plugin.journal.writer import written
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.ending import failure_of
from bf_plugin.run.exchange import access_of
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.runtime.ids import is_ours, new_run_id, new_thread_id
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.tracecontext import NO_TRACE, TraceContext
from bf_plugin.settings import PROVIDERS, Settings
from bf_plugin.usecases.admission import Admission
from bf_plugin.usecases.stop import Stops
from bf_plugin.values import RunDraft

ACCEPT_TIMEOUT = 2.0
"""Seconds a start waits for the provider before it is answered all the same."""

_END_TIMEOUT = 60.0
"""Seconds beyond the run's own that a polling caller waits: for a run that never came up, or does not come down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run keeps of the request that started it: `host_environ` is needed to call the host app again."""

    request_id: str
    host_environ: Mapping[str, Any]
    trace: TraceContext = NO_TRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that exists. `ending` is there when the caller waited for it; call `release` once it is answered."""

    run_id: str
    thread_id: str = field(repr=False)
    ticket: Ticket
    warnings: Sequence[str] = ()
    ending: FullEnding | None = None

    def release(self) -> None:
        """Let the run's events go."""
        self.ticket.release()


@dataclass(kw_only=True, eq=False, repr=False)
class Starts:
    """Starts runs. Called in request threads."""

    settings: Settings
    runs: RunStore
    dispatcher: Dispatcher
    hooks: HookCalls
    engines: Mapping[str, BaseEngine]
    host_messaging: bool
    admission: Admission
    stops: Stops

    def __post_init__(self) -> None:
        self._log = get_logger(__name__)

    def start(self, request: StartRequest, app: App, origin: Origin, claim: Claim | None = None) -> Started:
        """Start a run, or continue a thread with one; waits as the kind of start demands.

        Raises RequestError for every reason not to, PluginError when a `before_run` hook fails, KeyTaken when another
        run has the key of `claim`.
        """
        request = merge_assistant(request, app)
        check_operator_resources(request, app)
        thread_id, new_thread, warnings = self._thread(request, app)
        draft = _draft(request, app, origin, thread_id, new_thread)
        self.hooks.before_run(draft)
        record = self._record(draft, request, app, origin)
        warnings += self.engines[draft.provider].check(draft, access_of(record))
        ticket = Ticket()
        with self.admission.waiting() as may_wait:
            if not (request.stream or may_wait):
                raise RequestError(503, "too many callers wait for answers: use streaming, or try later", retry_after=1)
            with self.admission.new_run(app):
                self.dispatcher.expect(record, ticket)
            try:
                created = self._create(record, new_thread, claim)
            except BaseException:
                self.dispatcher.forget(record.id)
                raise
            self.dispatcher.submit(created)
            for warning in warnings:
                self._log.bind(run_id=record.id, request_id=origin.request_id).warning("%s", warning)
            ending = self._wait(ticket, stream=request.stream, may_wait=may_wait, record=record)
        return Started(run_id=record.id, thread_id=thread_id, ticket=ticket, warnings=warnings, ending=ending)

    def _thread(self, request: StartRequest, app: App) -> tuple[str, bool, list[str]]:
        """Return the thread to use, whether it is new, and the warnings of the start."""
        warnings = list(request.warnings)
        if request.thread_id is None:
            return new_thread_id(), True, warnings
        if is_ours(request.thread_id) and self.runs.has_thread(request.thread_id, app.id):
            return request.thread_id, False, warnings
        if self.settings.unknown_thread == "reject":
            raise _unknown_thread()
        return new_thread_id(), True, [*warnings, "payload.thread_id is not known: a new thread was started"]

    def _record(self, draft: RunDraft, request: StartRequest, app: App, origin: Origin) -> RunRecord:
        """Return the run that a draft becomes. Raises RequestError for a provider, a model or a key that is missing."""
        if draft.provider not in self.engines:
            known = ", ".join(sorted(self.engines)) or "none"
            raise invalid("payload.provider", f"is not installed here; installed are: {known}")
        if draft.model is None:
            raise invalid("payload.model", "is required: no model is configured for this app")
        key, operator_key = _key(draft, request, app)
        needs_key = self.engines[draft.provider].needs_key or draft.provider in PROVIDERS
        if needs_key and key is None:
            raise invalid("payload.apiKey", "is required: no provider key is configured for this app")
        spec = RunSpec(
            **shared(draft, RunSpec),
            base_url=self.settings.base_urls.get(draft.provider),
            operator_key=operator_key,
            action_name=request.action_name or "",
            channels=list(request.channels) if draft.stream else [],
            messaging_url=None if self.host_messaging else app.messaging_url or self.settings.messaging_url,
            host_environ=dict(origin.host_environ) if self.host_messaging else None,
        )
        return RunRecord(
            id=draft.id,
            thread_id=draft.thread_id,
            app=app.id,
            owner=self.dispatcher.owner,
            created_at=time.time(),
            spec=spec,
            secrets=Secrets(app_key=app.api_key, provider_key=key or ""),
        )

    def _create(self, record: RunRecord, new_thread: bool, claim: Claim | None) -> RunRecord:
        """Put the run on record, by the operator's policy for threads that are busy."""
        policy, timeout = self.settings.thread_busy, self.settings.run_timeout
        enqueue = policy == "enqueue"
        while True:
            creating = self.runs.create(record, new_thread=new_thread, enqueue=enqueue, timeout=timeout, claim=claim)
            try:
                return written(creating)
            except UnknownThread:
                raise _unknown_thread() from None
            except ThreadBusy as busy:
                if policy != "interrupt":
                    raise RequestError(409, "the thread has a run under way: stop it or wait", retry_after=1) from None
                if (present := self.runs.get(busy.run_id, record.thread_id)) is not None:
                    self.stops.cancel(present, "interrupt")

    def _wait(self, ticket: Ticket, *, stream: bool, may_wait: bool, record: RunRecord) -> FullEnding | None:
        """Return the ending for a caller that waits for it. Raises RequestError for a run that failed."""
        if stream:
            ticket.wait_accepted(ACCEPT_TIMEOUT if may_wait else 0)
            return None
        seconds = self.settings.run_timeout + _END_TIMEOUT
        deadline = time.monotonic() + seconds
        try:
            ticket.wait_accepted(seconds)
            return completed(ticket.ended.result(max(deadline - time.monotonic(), 0.0)), record)
        except FutureTimeoutError:
            if (present := self.runs.get(record.id, record.thread_id)) is not None:
                self.stops.cancel(present, "deadline")
            ids = {"threadId": record.thread_id, "runId": record.id}
            raise RequestError(408, f"the run took longer than {seconds:g} seconds", data=ids) from None


def completed(ending: FullEnding, record: RunRecord) -> FullEnding:
    """Return an ending that a polling caller is answered with. Raises RequestError, with the ids, for a failure."""
    if error := failure_of(ending):
        error.data.update(threadId=record.thread_id, runId=record.id)
        raise error
    return ending


def _draft(request: StartRequest, app: App, origin: Origin, thread_id: str, new_thread: bool) -> RunDraft:
    """Return what plugins may change: so its lists and dicts are its own."""
    own: dict[str, Any] = {
        "id": new_run_id(),
        "thread_id": thread_id,
        "app": app.id,
        "request_id": origin.request_id,
        "new_thread": new_thread,
        "messages": list(request.messages),
        "tools": list(request.tools or ()),
        "metadata": dict(request.metadata),
        "options": dict(request.options),
    }
    return RunDraft(**{**shared(request, RunDraft), **shared(origin.trace, RunDraft), **own})


def _key(draft: RunDraft, request: StartRequest, app: App) -> tuple[str | None, bool]:
    """Return the provider key, and whether it is the operator's.

    A caller's key is for the provider the caller named: where a plugin chose another, that never sees it.
    """
    if request.provider_key is not None and draft.provider == request.provider:
        return request.provider_key, False
    check_operator_resources(replace(request, provider_key=None), app)
    return app.provider_keys.get(draft.provider), True


def _unknown_thread() -> RequestError:
    return invalid("payload.thread_id", "is not known to this app", 404)
