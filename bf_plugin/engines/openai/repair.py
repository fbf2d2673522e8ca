"""Making items replayable: each call with one output, each output with its call, nothing sent twice.

The provider refuses anything else ("No tool output found for function call ...", "No tool call found for function call
output ..."), and an interrupted turn leaves just that behind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bf_plugin.items import FunctionOutput, Item, Message

UNKNOWN_RESULT = (
    "The call was interrupted and its result is unknown. It may have taken effect; do not repeat it without asking."
)

_NO_OUTPUT = re.compile(r"No tool output found for [\w ]*?call (?:with call_id )?([\w.-]*\w)", re.IGNORECASE)
_NO_CALL = re.compile(r"No tool call found for [\w ]*?output", re.IGNORECASE)


def call_without_output(message: str) -> str | None:
    """Return the call id that the provider misses an output for."""
    found = _NO_OUTPUT.search(message)
    return found.group(1) if found else None


def output_without_call(message: str) -> bool:
    """Tell whether the provider refuses an output because it does not know its call."""
    return _NO_CALL.search(message) is not None


def unknown_result(call_id: str) -> FunctionOutput:
    """Return the output that closes a call whose result is unknown."""
    return {"type": "function_output", "call_id": call_id, "output": UNKNOWN_RESULT}


def clean_items(items: Iterable[Item], *, open_calls: Collection[str] = ()) -> list[Item]:
    """Return items a model can be sent; `open_calls` are at the provider already and wait for their outputs.

    Calls without output get one right behind them, open calls at the front; second outputs, outputs without call and
    repeated calls are dropped.
    """
    called, answered = set(open_calls), set[str]()
    paired: list[Item] = []
    for item in items:
        if item["type"] == "function_call":
            if item["call_id"] in called:
                continue
            called.add(item["call_id"])
        elif item["type"] == "function_output":
            if item["call_id"] not in called or item["call_id"] in answered:
                continue
            answered.add(item["call_id"])
        paired.append(item)
    closed: list[Item] = [unknown_result(call_id) for call_id in open_calls if call_id not in answered]
    for item in paired:
        closed.append(item)
        if item["type"] == "function_call" and item["call_id"] not in answered:
            closed.append(unknown_result(item["call_id"]))
    return closed


def reconcile(
    newest: Sequence[Mapping[str, Any]], new: Sequence[Item], *, tail: str | None, open_calls: Collection[str] = ()
) -> list[Item]:
    """Return what of `new` a conversation still lacks, closing every call it holds.

    `newest` are its items as the provider lists them, newest first; `tail` is the last one before the interrupted turn.
    """
    called = {str(item.get("call_id")): None for item in reversed(newest) if item.get("type") == "function_call"}
    answered = {str(item.get("call_id")) for item in newest if item.get("type") == "function_call_output"}
    waiting = [call_id for call_id in {**dict.fromkeys(open_calls), **called} if call_id not in answered]
    standing = [item for item in _interrupted_turn(newest, new, tail, answered) if item.get("type") == "message"]
    missing: list[Item] = []
    for item in new:
        if item["type"] == "message":
            place = next((number for number, other in enumerate(standing) if _same(other, item)), None)
            if place is None:
                missing.append(item)
            else:
                del standing[: place + 1]
        elif item["call_id"] not in answered:
            missing.append(item)
    return clean_items(missing, open_calls=waiting)


def _interrupted_turn(
    newest: Sequence[Mapping[str, Any]], new: Sequence[Item], tail: str | None, answered: Collection[str]
) -> list[Mapping[str, Any]]:
    """Return the items after the last good turn, oldest first.

    Where the tail is not among them, the turn reaches back to the first item that it cannot have brought: the same
    words may well have been said before.
    """
    turn: list[Mapping[str, Any]] = []
    known = tail is not None and any(item.get("id") == tail for item in newest)
    for item in newest:
        if item.get("id") == tail if known else not _may_belong(item, new, answered):
            break
        turn.insert(0, item)
    return turn


def _may_belong(item: Mapping[str, Any], new: Sequence[Item], answered: Collection[str]) -> bool:
    if item.get("type") == "message":
        return any(_same(item, other) for other in new if other["type"] == "message")
    if item.get("type") in ("function_call", "function_call_output"):
        ours = any(other["type"] != "message" and other["call_id"] == item.get("call_id") for other in new)
        return ours or item.get("call_id") not in answered
    return True


def _same(standing: Mapping[str, Any], message: Message) -> bool:
    """Tell whether a message at the provider is this one. An answer that was cut off here may stand there in full."""
    if standing.get("role") != message["role"]:
        return False
    content = [part for part in standing.get("content") or () if isinstance(part, Mapping)]
    theirs = [str(part.get("text") or part.get("refusal") or "") for part in content]
    ours = [part["text"] if part["type"] == "text" else "" for part in message["content"]]
    if message["role"] == "assistant":
        return "".join(theirs).startswith("".join(ours))
    return theirs == ours
