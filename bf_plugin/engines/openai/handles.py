"""What the engine remembers: handles name a response, states what the next step of a thread starts from.

A handle is `{"mode", "response_id", "background"}`, with `"conversation"` in conversation mode. A state is
`{"response_id"}` or `{"conversation"}`, with the call ids of its last response in `"calls"`, since each must be
answered; a conversation's also has `"tail"`, its last known item, and after a cut `"dirty"` and `"cut"`, the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from bf_plugin.engines.openai.results import calls_of
from bf_plugin.engines.port import Handle, State

Mode = Literal["responses", "conversation", "local"]


def usable(state: State | None, mode: Mode) -> State | None:
    """Return the state if this mode can go on from it."""
    if mode == "local" or not state:
        return None
    return state if ("response_id" if mode == "responses" else "conversation") in state else None


def state_after(handle: Handle, output: Sequence[Any]) -> State | None:
    """Return the state once a response is complete.

    `calls` holds all calls it committed, also those that are not handed on.
    """
    state: dict[str, Any]
    if handle["mode"] == "conversation":
        state = {"conversation": handle["conversation"]}
        tail = next((item.get("id") for item in reversed(output) if isinstance(item, Mapping)), None)
        if isinstance(tail, str):
            state["tail"] = tail
    elif handle["mode"] == "responses" and handle.get("response_id"):
        state = {"response_id": handle["response_id"]}
    else:
        return None
    if calls := [call["call_id"] for call in calls_of(output)]:
        state["calls"] = calls
    return state


def state_cut(state: State | None, handle: Handle | None) -> State | None:
    """Return the state after a step was cut off: a chain goes back to where it was, a conversation needs repair."""
    conversation = (handle or {}).get("conversation") or (state or {}).get("conversation")
    if not conversation:
        return state
    kept = state if state and state.get("conversation") == conversation else {}
    return {
        **kept,
        "conversation": conversation,
        "dirty": True,
        "cut": (handle or {}).get("response_id") or kept.get("cut"),
    }
