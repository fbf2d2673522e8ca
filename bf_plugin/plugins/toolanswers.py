"""What the model is told about a tool call: one form for results, one sentence for each way to fail."""

from __future__ import annotations

import json
from typing import Any

from bf_plugin.runtime.text import well_formed

_LONGEST_REASON = 500


class NotJSON(ValueError):
    """A tool's output cannot be written as JSON."""


def answer_text(output: object) -> str:
    """Return the text that stands for a tool's output: a str as it is, all else as JSON.

    pydantic writes what is not plain JSON: dataclasses, models, dates, decimals, sets. Raises NotJSON for the rest, and
    for NaN and infinity, which no JSON reader needs to take.
    """
    try:
        text = output if isinstance(output, str) else json.dumps(output, default=_plain, ensure_ascii=False, **_EXACT)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJSON(str(error)) from error
    return well_formed(text)


_EXACT: dict[str, Any] = {"allow_nan": False, "separators": (",", ":")}


def _plain(value: object) -> object:
    from pydantic_core import to_jsonable_python

    return to_jsonable_python(value)


def failed(tool: str, error: BaseException) -> str:
    """Return what to say when the tool raised `error`, or answered what is not JSON."""
    reason = str(error).strip()[:_LONGEST_REASON]
    if isinstance(error, NotJSON):
        return f"Error: {tool} answered something that is not JSON: {reason}"
    return f"Error: {tool} failed: {type(error).__name__}: {reason}".rstrip(": ")


def overdue(tool: str, seconds: float, *, begun: bool) -> str:
    """Return what to say when no answer came in time."""
    if begun:
        return f"Error: {tool} did not answer within {seconds:g} seconds. It may have taken effect."
    return f"Error: {tool} was not called, the server is busy. Nothing happened."


def unanswered(tool: str) -> str:
    """Return what to say when no plugin took the call."""
    return f"Error: unknown tool {tool}: nothing answers it."
