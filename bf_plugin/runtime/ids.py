"""Ids of threads, runs and browser tool calls.

They are capabilities: whoever knows a thread id and a run id may stop the run. So each holds 168 random bits.
Run ids may be logged, thread ids and tool call ids never.
"""

from __future__ import annotations

import re
import secrets

_BYTES = 21
_SHAPE = re.compile(r"(thread|run|tool)_[A-Za-z0-9_-]{28}")


def new_thread_id() -> str:
    """Return a fresh thread id, url-safe, at most 64 characters."""
    return "thread_" + secrets.token_urlsafe(_BYTES)


def new_run_id() -> str:
    """Return a fresh run id, url-safe, at most 64 characters."""
    return "run_" + secrets.token_urlsafe(_BYTES)


def new_tool_call_id() -> str:
    """Return a fresh id for one browser tool call; the answer's only credential."""
    return "tool_" + secrets.token_urlsafe(_BYTES)


def is_ours(value: str) -> bool:
    """Tell whether `value` has the shape of an id this module made."""
    return _SHAPE.fullmatch(value) is not None
