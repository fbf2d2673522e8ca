"""The use cases: start a run, stop it, answer its tools. Called in request threads; no HTTP and no SDK type here."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from typing import Any

from bf_plugin.bodies import StartRequest, StopRequest, ToolAnswer, check_operator_resources, merge_assistant
from bf_plugin.dispatch.port import Dispatcher
from bf_plugin.engines.port import Access, BaseEngine
from bf_plugin.errors import RequestError, invalid
from bf_plugin.gateway.apps import App
from bf_plugin.journal import Journal, RunRecord, RunSpec, Secrets, ThreadBusy, UnknownThread
from bf_plugin.journal.keys import Claim
from bf_plugin.journal.records import CANCELLED
from bf_plugin.journal.writer import written
from bf_plugin.plugins.calls import HookCalls
from bf_plugin.run.ending import failure_of
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.runtime.ids import is_ours, new_run_id, new_thread_id
from bf_plugin.runtime.logs import get_logger
from bf_plugin.runtime.tracecontext import NO_TRACE, TraceContext
from bf_plugin.settings import PROVIDERS, Settings
from bf_plugin.usecases.places import Places
from bf_plugin.usecases.waiters import Waiters
from bf_plugin.values import RunDraft, StopReason

ACCEPT_PATIENCE = 2.0
"""Seconds a start waits for the provider before it is answered all the same."""

_END_PATIENCE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run keeps of the request that started it: `host_environ` is needed to call the host app again."""

    request_id: str
    host_environ: Mapping[str, Any]
    trace: TraceContext = NO_TRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A run that exists. `ending` is there when the caller waited for its end; call `release` once it is answered."""

    run_id: str
    thread_id: str = field(repr=False)
    ticket: Ticket
    warnings: Sequence[str] = ()
    ending: FullEnding | None = None

    def release(self) -> None:
        """Let the run's events go."""
        self.ticket.release()


class Runs:
    """What the endpoint does."""

    def __init__(
        self,
        *,
        settings: Settings,
        journal: Journal,
        dispatcher: Dispatcher,
        hooks: HookCalls,
        engines: Mapping[str, BaseEngine],
        host_messaging: bool,
        waiters: Waiters,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._dispatcher = dispatcher
        self._hooks = hooks
        self._engines = engines
        self._host_messaging = host_messaging
        self._waiters = waiters
        self._log = get_logger(__name__)
        self._places = Places(settings.max_runs, dispatcher.active)
        self._capacity = threading.Lock()  # between counting the runs under way and adding one

    def start(self, request: StartRequest, app: App, origin: Origin, claim: Claim | None = None) -> Started:
        """Start a run, or continue a thread with one; waits as the kind of start demands.

        Raises RequestError for every reason not to, PluginError when a `before_run` hook fails, KeyTaken when another
        run has the key of `claim`.
        """
        request = merge_assistant(request, app)
        check_operator_resources(request, app)
        thread_id, new_thread, warnings = self._thread(request, app)
        draft = _draft(request, app, origin, thread_id, new_thread)
        self._hooks.before_run(draft)
        record = self._record(draft, request, app, origin)
        warnings += self._warnings_of_engine(draft, record)
        ticket = Ticket()
        with self._waiters.place() as may_wait:
            if not (request.stream or may_wait):
                raise RequestError(503, "too many callers wait for answers: use streaming, or try later", retry_after=1)
            self._submit(record, new_thread, ticket, app, claim)
            for warning in warnings:
                self._log.bind(run_id=record.id, request_id=origin.request_id).warning("%s", warning)
            ending = self._wait(ticket, stream=request.stream, may_wait=may_wait, record=record)
        return Started(run_id=record.id, thread_id=thread_id, ticket=ticket, warnings=warnings, ending=ending)

    def stop(self, request: StopRequest, app_id: str | None) -> str:
        """Stop a run; return the status the caller is told. `app_id` None: no key was sent."""
        known = is_ours(request.run_id) and is_ours(request.thread_id)
        record = self._journal.runs.get(request.run_id, request.thread_id) if known else None
        if record is None or app_id not in (None, record.app):
            return "not_found"
        return self._cancel(record, "stop") if record.outcome is None else f"already_{record.outcome}"

    def answer_tool(self, answer: ToolAnswer) -> str:
        """Take a page's answer to a tool call: `accepted` when it is the first and in time, else `ignored`."""
        ours = is_ours(answer.tool_call_id)
        answered = written(self._journal.steps.answer(answer.tool_call_id, answer.output)) if ours else None
        if answered is None:
            raise RequestError(404, "no such tool call", errors={"toolCallId": "is not known here"})
        run_id, first = answered
        if first:
            self._dispatcher.answered(run_id, answer.tool_call_id)
        return "accepted" if first else "ignored"

    @property
    def providers(self) -> Sequence[str]:
        """The names of the installed engines."""
        return sorted(self._engines)

    def knows_tool_call(self, tool_call_id: str) -> bool:
        """Tell whether a tool call is ours; if not, its answer is for the host's own routes."""
        return is_ours(tool_call_id) and self._journal.steps.has_call(tool_call_id)

    def _cancel(self, record: RunRecord, reason: StopReason) -> str:
        ending = written(self._journal.runs.decide(record.id, CANCELLED))
        if not ending.won:
            return f"already_{ending.status}"
        self._dispatcher.stop(record, ending, reason)
        return "cancelled"

    def _thread(self, request: StartRequest, app: App) -> tuple[str, bool, list[str]]:
        """Return the thread to use, whether it is new, and the warnings of the start."""
        warnings = list(request.warnings)
        if request.thread_id is None:
            return new_thread_id(), True, warnings
        if is_ours(request.thread_id) and self._journal.runs.has_thread(request.thread_id, app.id):
            return request.thread_id, False, warnings
        if self._settings.unknown_thread == "reject":
            raise _unknown_thread()
        return new_thread_id(), True, [*warnings, "payload.thread_id is not known: a new thread was started"]

    def _record(self, draft: RunDraft, request: StartRequest, app: App, origin: Origin) -> RunRecord:
        if draft.provider not in self._engines:
            known = ", ".join(sorted(self._engines)) or "none"
            raise invalid("payload.provider", f"is not installed here; installed are: {known}")
        if draft.model is None:
            raise invalid("payload.model", "is required: no model is configured for this app")
        key, operator_key = _key(draft, request, app)
        needs_key = self._engines[draft.provider].needs_key or draft.provider in PROVIDERS
        if needs_key and key is None:
            raise invalid("payload.apiKey", "is required: no provider key is configured for this app")
        spec = RunSpec(
            provider=draft.provider,
            base_url=self._settings.base_urls.get(draft.provider),
            operator_key=operator_key,
            model=draft.model,
            instructions=draft.instructions,
            messages=draft.messages,
            tools=draft.tools,
            metadata=draft.metadata,
            options=draft.options,
            stream=draft.stream,
            action_name=request.action_name or "",
            channels=list(request.channels) if draft.stream else [],
            messaging_url=None if self._host_messaging else app.messaging_url or self._settings.messaging_url,
            host_environ=dict(origin.host_environ) if self._host_messaging else None,
            request_id=origin.request_id,
            traceparent=draft.traceparent,
            tracestate=draft.tracestate,
        )
        return RunRecord(
            id=draft.id,
            thread_id=draft.thread_id,
            app=app.id,
            owner=self._dispatcher.owner,
            created_at=time.time(),
            spec=spec,
            secrets=Secrets(app_key=app.api_key, provider_key=key or ""),
        )

    def _warnings_of_engine(self, draft: RunDraft, record: RunRecord) -> Sequence[str]:
        """Let the engine look at the run. Raises RequestError."""
        access = Access(
            api_key=record.secrets.provider_key if record.secrets else "",
            base_url=record.spec.base_url,
            request_id=record.spec.request_id,
        )
        return self._engines[draft.provider].check(draft, access)

    def _submit(self, record: RunRecord, new_thread: bool, ticket: Ticket, app: App, claim: Claim | None) -> None:
        self._reserve(record, ticket, app)
        try:
            created = self._create(record, new_thread, claim)
        except BaseException:
            self._dispatcher.forget(record.id)
            raise
        self._dispatcher.submit(created)

    def _reserve(self, record: RunRecord, ticket: Ticket, app: App) -> None:
        with self._capacity:
            self._places.check(app)
            self._dispatcher.expect(record, ticket)

    def _create(self, record: RunRecord, new_thread: bool, claim: Claim | None) -> RunRecord:
        """Put the run on record, by the operator's policy for threads that are busy."""
        policy = self._settings.thread_busy
        while True:
            creating = self._journal.runs.create(
                record,
                new_thread=new_thread,
                enqueue=policy == "enqueue",
                timeout=self._settings.run_timeout,
                claim=claim,
            )
            try:
                return written(creating)
            except UnknownThread:
                raise _unknown_thread() from None
            except ThreadBusy as busy:
                present = self._journal.runs.get(busy.run_id, record.thread_id)
                if policy != "interrupt":
                    raise RequestError(409, "the thread has a run under way: stop it or wait", retry_after=1) from None
                if present is not None:
                    self._cancel(present, "interrupt")

    def _wait(self, ticket: Ticket, *, stream: bool, may_wait: bool, record: RunRecord) -> FullEnding | None:
        if stream:
            ticket.wait_accepted(ACCEPT_PATIENCE if may_wait else 0)
            return None
        ending = self._wait_for_end(ticket, record)
        if error := failure_of(ending):
            error.data.update(threadId=record.thread_id, runId=record.id)
            raise error
        return ending

    def _wait_for_end(self, ticket: Ticket, record: RunRecord) -> FullEnding:
        patience = self._settings.run_timeout + _END_PATIENCE  # for a run that never came up, or does not come down
        deadline = time.monotonic() + patience
        try:
            ticket.wait_accepted(patience)
            return ticket.ended.result(max(deadline - time.monotonic(), 0.0))
        except FutureTimeoutError:
            present = self._journal.runs.get(record.id, record.thread_id)
            if present is not None and present.outcome is None:
                self._cancel(present, "deadline")
            ids = {"threadId": record.thread_id, "runId": record.id}
            raise RequestError(408, f"the run took longer than {patience:g} seconds", data=ids) from None


def _unknown_thread() -> RequestError:
    return invalid("payload.thread_id", "is not known to this app", 404)


def _key(draft: RunDraft, request: StartRequest, app: App) -> tuple[str | None, bool]:
    """Return the provider key, and whether it is the operator's.

    A caller's key is for the provider the caller named: where a plugin chose another, that never sees it.
    """
    if request.provider_key is not None and draft.provider == request.provider:
        return request.provider_key, False
    check_operator_resources(replace(request, provider_key=None), app)
    return app.provider_keys.get(draft.provider), True


def _draft(request: StartRequest, app: App, origin: Origin, thread_id: str, new_thread: bool) -> RunDraft:
    return RunDraft(
        id=new_run_id(),
        thread_id=thread_id,
        app=app.id,
        request_id=origin.request_id,
        provider=request.provider,
        model=request.model,
        instructions=request.instructions,
        messages=list(request.messages),
        tools=list(request.tools or ()),
        metadata=dict(request.metadata),
        options=dict(request.options),
        stream=request.stream,
        new_thread=new_thread,
        traceparent=origin.trace.traceparent,
        tracestate=origin.trace.tracestate,
    )
