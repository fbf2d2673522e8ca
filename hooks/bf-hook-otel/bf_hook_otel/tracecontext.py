"""The trace context of a run: in its record as W3C headers, here as OpenTelemetry's values.

`traceparent` names the run's own span. The span above it is kept beside that, in `tracestate`, where the recommendation
has a place for what a participant needs: `bf_plugin=<id of the span above>`, 0 where there is none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

_OURS = re.compile(r"(?:^|,)bf_plugin=([0-9a-f]{16}|0)(?:,|$)")
_MEMBERS = 32
_LONGEST = 512


class RunContext(NamedTuple):
    """The span of a run, and the one above it, None where the run is the root of its trace."""

    span: SpanContext
    parent: SpanContext | None

    @property
    def sampled(self) -> bool:
        """Whether the run has spans."""
        return bool(self.span.trace_flags.sampled)


def read_caller(traceparent: str | None, tracestate: str | None) -> SpanContext | None:
    """Return the caller's span, as bf_plugin hands it on: well formed, or None."""
    return None if traceparent is None else _span(traceparent, tracestate)


def read_run(traceparent: str | None, tracestate: str | None) -> RunContext | None:
    """Return what `write_run` wrote, None for a run that was accepted without it."""
    ours = _OURS.search(tracestate or "")
    if traceparent is None or ours is None:
        return None
    span = _span(traceparent, tracestate)
    above = int(ours[1], 16)
    parent = SpanContext(span.trace_id, above, True, span.trace_flags, span.trace_state) if above else None
    return RunContext(span, parent)


def write_run(trace_id: int, span_id: int, sampled: bool, parent: SpanContext | None, state: str) -> tuple[str, str]:
    """Return the two headers for a run's own span. What does not fit behind our member of the state is left off."""
    above = "0" if parent is None else f"{parent.span_id:016x}"
    theirs = [member for member in state.split(",") if member and not member.startswith("bf_plugin=")]
    members = [f"bf_plugin={above}", *theirs][:_MEMBERS]
    while len(",".join(members)) > _LONGEST:
        members.pop()
    return f"00-{trace_id:032x}-{span_id:016x}-{int(sampled):02x}", ",".join(members)


def _span(traceparent: str, tracestate: str | None) -> SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    state = TraceState.from_header([tracestate]) if tracestate else TraceState()
    return SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)), state)
