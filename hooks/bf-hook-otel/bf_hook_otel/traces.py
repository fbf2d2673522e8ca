"""The spans: one a run, below it one a step and one a tool call.

Calls of tools are spans while they are made, so that what a tool does is below them. The spans of the run and of its
steps are made when the run is over, of the times on record; they name ids that were chosen when the run was accepted
(`choice`). Whichever processes drove it, a run is one span, and its steps are below it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode

from bf_hook_otel import attributes, names
from bf_hook_otel.attributes import Attributes, Describer
from bf_hook_otel.choice import Choice, chosen, obeys
from bf_hook_otel.tracecontext import read_caller, read_run, write_run
from bf_plugin import Outcome, Run, RunDraft, Step, ToolCall


class Traces:
    """Makes the spans of runs with a tracer of the SDK."""

    def __init__(self, tracer: Tracer, describer: Describer, has_content: Callable[[str], bool]) -> None:
        self._tracer = tracer
        self._ids, self._sampler = obeys(tracer)
        self._describer = describer
        self._has_content = has_content

    def accept(self, draft: RunDraft) -> None:
        """Choose the ids of a run's span, and whether it has one; they go on record with the run.

        The parent is the span of the request's thread, where a WSGI instrumentation has made one, else the caller's.
        """
        parent: SpanContext | None = trace.get_current_span().get_span_context()
        if parent is None or not parent.is_valid:
            parent = read_caller(draft.traceparent, draft.tracestate)
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        name = self._name(draft.app)
        asked = {names.OPERATION: names.INVOKE_AGENT, names.REQUEST_MODEL: draft.model or ""}
        result = self._sampler.should_sample(_below(parent), trace_id, name, SpanKind.INTERNAL, asked)
        state = "" if result.trace_state is None else result.trace_state.to_header()
        sampled = result.decision is Decision.RECORD_AND_SAMPLE
        span_id = self._ids.generate_span_id()
        draft.traceparent, draft.tracestate = write_run(trace_id, span_id, sampled, parent, state)

    def tool(self, run: Run, call: ToolCall) -> Span | None:
        """Start the span of a tool call, None where the run has none."""
        context = read_run(run.traceparent, run.tracestate)
        if context is None or not context.sampled:
            return None
        about = {
            names.OPERATION: names.EXECUTE_TOOL,
            names.TOOL_NAME: call.name,
            names.TOOL_TYPE: "function",
            names.TOOL_CALL_ID: call.id,
            names.RUN_ID: run.id,
        }
        if self._has_content(run.app):
            about[names.TOOL_ARGUMENTS] = attributes.text_of(dict(call.arguments))
        name = f"{names.EXECUTE_TOOL} {call.name}" if call.tool is not None else names.EXECUTE_TOOL
        return self._start(name, context.span, about, _choice(context.span, None))

    def tool_ended(self, run: Run, span: Span, result: object, error: str | None) -> None:
        """End the span of a tool call."""
        if error is None and self._has_content(run.app):
            span.set_attribute(names.TOOL_RESULT, attributes.text_of(result))
        if error is not None:
            _fail(span, error)
        span.end()

    def ended(self, run: Run, outcome: Outcome, steps: Sequence[Step]) -> None:
        """Make the spans of a run that is over; `steps` are its steps, the last one perhaps cut off."""
        context = read_run(run.traceparent, run.tracestate)
        if context is None or not context.sampled:
            return
        end = run.started_at + outcome.duration
        for step in steps:
            self._step(run, outcome, step, end, context.span)
        about = self._describer.run(run, outcome)
        with_content = self._has_content(run.app)
        if with_content:
            about |= attributes.content(run, outcome)
        choice = _choice(context.span, context.span.span_id)
        span = self._start(self._name(run.app), context.parent, about, choice, start=run.started_at)
        if outcome.error_code is not None:
            _fail(span, outcome.error_code, outcome.error_message if with_content else None)
        span.end(_nanoseconds(end))

    def _step(self, run: Run, outcome: Outcome, step: Step, end: float, parent: SpanContext) -> None:
        last = step.number == len(outcome.steps) and outcome.status == "completed"
        about = self._describer.step(run, step, last=last)
        choice = _choice(parent, _step_id(run.id, step.number))
        name = f"{names.CHAT} {run.model}"
        span = self._start(name, parent, about, choice, kind=SpanKind.CLIENT, start=step.started_at)
        if step.ended_at is None:
            _fail(span, cut_off_by(outcome))
        span.end(_nanoseconds(step.ended_at or end))

    def _start(
        self,
        name: str,
        parent: SpanContext | None,
        about: Attributes,
        choice: Choice,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        start: float | None = None,
    ) -> Span:
        when = None if start is None else _nanoseconds(start)
        with chosen(choice):
            return self._tracer.start_span(name, _below(parent), kind, about, start_time=when)

    def _name(self, app: str) -> str:
        return f"{names.INVOKE_AGENT} {app}" if app in self._describer.named else names.INVOKE_AGENT


def _below(parent: SpanContext | None) -> Context:
    """Return a context in which spans are below `parent`, or have none, whatever this thread is in the midst of."""
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _choice(of: SpanContext, span_id: int | None) -> Choice:
    return Choice(trace_id=of.trace_id, span_id=span_id, state=of.trace_state)


def _step_id(run_id: str, number: int) -> int:
    """Return the id of a step's span, the same in every process: a run that is told of twice makes one trace."""
    digest = hashlib.sha256(f"bf_plugin step\0{run_id}\0{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def _fail(span: Span, error: str, description: str | None = None) -> None:
    span.set_attribute(names.ERROR_TYPE, error)
    span.set_status(Status(StatusCode.ERROR, description))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def cut_off_by(outcome: Outcome) -> str:
    """Return what `error.type` says of a step that was not finished."""
    return outcome.error_code or (names.STOPPED_BY_HOOK if outcome.status == "completed" else outcome.status)


def error_name(error: BaseException) -> str:
    """Return what `error.type` says of an exception: the kind of what a plugin raised, and nothing of its text."""
    cause: Any = error.__cause__ if type(error).__name__ == "PluginError" and error.__cause__ else error
    return type(cause).__qualname__
