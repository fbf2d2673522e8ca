"""What a run object of the server means."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from bf_hook_assistants.problems import failure
from bf_plugin import ProviderError, Usage
from bf_plugin.items import FunctionCall
from bf_plugin.values import FinishReason

_UNDER_WAY = frozenset({"queued", "in_progress", "cancelling"})
_FAILURES = {
    "cancelled": ("the provider cancelled the run", "provider_cancelled"),
    "expired": ("the run expired at the provider", "provider_expired"),
}


def is_active(run: Mapping[str, Any]) -> bool:
    """Tell whether a run keeps its thread from others."""
    return run.get("status") in _UNDER_WAY or run.get("status") == "requires_action"


def waits(run: Mapping[str, Any], answered: Collection[str]) -> bool:
    """Tell whether a step of a run goes on; one that still asks for what was `answered` has not noticed yet."""
    if run.get("status") == "requires_action":
        asked = {call["call_id"] for call in _calls(run)}
        return bool(asked) and asked <= set(answered)
    return run.get("status") in _UNDER_WAY


def calls_of(run: Mapping[str, Any], key: str) -> list[FunctionCall]:
    """Return the calls of a run whose step is over, none if it has come to its end.

    Raises ProviderError for a run that failed, and for one that wants something else than the outputs of functions.
    """
    status = run.get("status")
    if status in ("completed", "incomplete"):
        return []
    if status == "failed":
        raise failure(run.get("last_error"), key)
    if status == "requires_action":
        calls = _calls(run)
        if not calls:
            raise ProviderError("the run waits for something that functions cannot give", code="provider_unsupported")
        return calls
    message, code = _FAILURES.get(str(status), (f"the provider says of the run that it is {status}", "provider_error"))
    raise ProviderError(message, code=code)


def finish_of(run: Mapping[str, Any]) -> FinishReason:
    """Return why a run said no more."""
    if run.get("status") != "incomplete":
        return "stop"
    reason = (run.get("incomplete_details") or {}).get("reason")
    return "content_filter" if reason == "content_filter" else "length"


def usage_of(run: Mapping[str, Any]) -> Usage | None:
    """Return the usage of a run, all its steps together; servers tell it at the end, and some not at all."""
    usage = run.get("usage")
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens") or prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


def _calls(run: Mapping[str, Any]) -> list[FunctionCall]:
    asked = ((run.get("required_action") or {}).get("submit_tool_outputs") or {}).get("tool_calls") or ()
    return [
        {
            "type": "function_call",
            "call_id": str(call.get("id")),
            "name": str(call["function"].get("name")),
            "arguments": str(call["function"].get("arguments") or "{}"),
        }
        for call in asked
        if isinstance(call, Mapping) and isinstance(call.get("function"), Mapping)
    ]
