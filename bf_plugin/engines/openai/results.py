"""From a response object to what the driver gets: items, calls, content, usage, finish reason, or a failure.

And to what the engine remembers: handles name a response, states what the next step of a thread starts from. A handle
is `{"mode", "response_id", "background"}`, with `"conversation"` in conversation mode. A state is `{"response_id"}` or
`{"conversation"}`, with the call ids of its last response in `"calls"`, since each must be answered; a conversation's
also has `"tail"`, its last known item, and after a cut `"dirty"` and `"cut"`, the response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from bf_plugin.engines.openai.problems import Problem, event_problem
from bf_plugin.engines.openai.transcript import Part as TextPlace
from bf_plugin.engines.openai.transcript import Transcript
from bf_plugin.engines.port import Handle, State, StepDone
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, Part
from bf_plugin.runtime.text import tokens_of, well_formed
from bf_plugin.values import FinishReason, Usage

Mode = Literal["responses", "conversation", "local"]

TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})

_REASONS: Mapping[str, FinishReason] = {"content_filter": "content_filter"}


def texts_of(output: Sequence[Any]) -> Iterator[tuple[TextPlace, Mapping[str, Any], str]]:
    """Yield (part, content part, full text) of each text and refusal in a response's output."""
    for number, item in enumerate(output):
        yield from item_texts(number, item)


def item_texts(number: int, item: Any) -> Iterator[tuple[TextPlace, Mapping[str, Any], str]]:
    """Yield the texts of one output item."""
    if not isinstance(item, Mapping) or item.get("type") != "message":
        return
    for index, content in enumerate(item.get("content") or ()):
        text = content.get("refusal") if content.get("type") == "refusal" else content.get("text")
        if isinstance(text, str):
            yield (number, index), content, text


def failure_of(response: Mapping[str, Any], key: str) -> ProviderError | None:
    """Return why a response failed, None if it did not."""
    status = response.get("status")
    if status == "cancelled":
        return Problem("the provider cancelled the response", code="provider_cancelled")
    if status == "failed":
        return event_problem({"error": response.get("error") or {}}, key)
    return None


def usage_of(response: Mapping[str, Any]) -> Usage | None:
    """Return the tokens a response says it took, None if it says nothing."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None
    prompt, completion = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    total = _count(usage, "total_tokens") or prompt + completion
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=total)


def estimated(prompt_characters: int, completion_characters: int) -> Usage:
    """Return a guess at the usage, by the length of the texts."""
    prompt = tokens_of(prompt_characters)
    completion = tokens_of(completion_characters)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion, estimated=True)


def finish_reason_of(response: Mapping[str, Any]) -> FinishReason:
    """Return how a response ended that did not fail."""
    if response.get("status") != "incomplete":
        return "stop"
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return _REASONS.get(str(reason), "length")


def calls_of(output: Sequence[Any]) -> list[FunctionCall]:
    """Return the function calls of an output, in order."""
    return [
        FunctionCall(
            type="function_call",
            call_id=well_formed(str(item.get("call_id") or item.get("id") or "")),
            name=well_formed(str(item.get("name") or "")),
            arguments=well_formed(str(item.get("arguments") or "")),
        )
        for item in output
        if isinstance(item, Mapping) and item.get("type") == "function_call"
    ]


def step_done(
    response: Mapping[str, Any], output: Sequence[Any], transcript: Transcript, *, state: State | None, prompt: int
) -> StepDone:
    """Return the end of a step. `prompt` is how many characters were sent, for servers that do not count tokens.

    The calls of an incomplete response are dropped: their arguments may be cut off anywhere.
    """
    finish_reason = finish_reason_of(response)
    calls = calls_of(output) if response.get("status") != "incomplete" else []
    said = _said(output, transcript)
    length = transcript.length() + sum(len(call["arguments"]) for call in calls)
    return StepDone(
        state=state,
        items=_items(output, said, calls),
        calls=calls,
        content=[_content(text, annotations) for _, text, annotations in said],
        usage=usage_of(response) or estimated(prompt, length),
        finish_reason=finish_reason,
    )


def _said(output: Sequence[Any], transcript: Transcript) -> list[tuple[int, str, Sequence[Any]]]:
    """Return (output index, text, annotations) of each text as it was handed on, whatever the server's last word."""
    listed = list(texts_of(output))
    if not listed:
        return [(part[0], transcript.text(part), ()) for part in transcript.parts()]
    known = transcript.align([part for part, _, _ in listed])
    said = [
        (part[0], transcript.text(known[part]) or well_formed(full), raw.get("annotations") or ())
        for part, raw, full in listed
    ]
    return [entry for entry in said if entry[1]]


def _content(text: str, annotations: Sequence[Any]) -> Mapping[str, Any]:
    value: dict[str, Any] = {"value": text}
    if annotations:
        value["annotations"] = list(annotations)
    return {"type": "text", "text": value}


def _items(
    output: Sequence[Any], said: Sequence[tuple[int, str, Sequence[Any]]], calls: Sequence[FunctionCall]
) -> list[Item]:
    """Return the neutral items in output order; one message per item that has text."""
    texts: dict[int, list[Part]] = {}
    for number, text, _ in said:
        texts.setdefault(number, []).append({"type": "text", "text": text})
    remaining = iter(calls)
    items: list[Item] = []
    for number, item in enumerate(output):
        if number in texts:
            items.append({"type": "message", "role": "assistant", "content": texts.pop(number)})
        elif isinstance(item, Mapping) and item.get("type") == "function_call":
            items.extend(call for call in [next(remaining, None)] if call is not None)
    unlisted: list[Item] = [{"type": "message", "role": "assistant", "content": parts} for parts in texts.values()]
    return [*unlisted, *items]


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


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
