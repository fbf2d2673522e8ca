"""The trace that a request belongs to, in the two headers of W3C Trace Context (https://www.w3.org/TR/trace-context/).

We carry them from the request into the run's record, where hooks find them, and from there to the provider. We make no
spans; a plugin that does puts the trace context of its own span in their place.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?P<ids>(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_MEMBERS = 32
_LONGEST_STATE = 512


class TraceContext(NamedTuple):
    """`traceparent` and `tracestate`, well formed; both None where there is no trace, and no state without a parent."""

    traceparent: str | None = None
    tracestate: str | None = None


NO_TRACE = TraceContext()


def trace_context(traceparent: str | None, tracestate: str | None) -> TraceContext:
    """Return what two headers say. A malformed one counts as absent, as the recommendation demands.

    A `traceparent` of a later version becomes one of version 00, the only version that we write.
    """
    found = _PARENT.fullmatch((traceparent or "").strip(" \t"))
    if found is None or (found["version"] == "00" and found["more"]):
        return NO_TRACE
    flags = found["flags"] if found["version"] == "00" else f"{int(found['flags'], 16) & 1:02x}"
    return TraceContext(f"00-{found['ids']}-{flags}", _state(tracestate))


def trace_headers(traceparent: str | None, tracestate: str | None) -> dict[str, str]:
    """Return the headers that hand a trace on."""
    return {name: value for name, value in zip(TraceContext._fields, (traceparent, tracestate), strict=True) if value}


def _state(header: str | None) -> str | None:
    members = [member for part in (header or "").split(",") if (member := part.strip(" \t"))]
    state = ",".join(members)
    fits = len(members) <= _MEMBERS and len(state) <= _LONGEST_STATE
    return state if state and fits and all(map(_MEMBER.fullmatch, members)) else None
