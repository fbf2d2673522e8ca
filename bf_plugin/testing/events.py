"""Assertions on the events of a run, with failures that show what came.

```python
assert_events(deployed.events(run), "threadInfo delta+ function_call delta* end", text="It is warm.")
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]

_WORD = re.compile(r"(\w+)([+*?]?)")
_LONGEST = 60


def text_of(events: Sequence[Event]) -> str:
    """Return the text of a run as a page shows it: each delta at its offset, whichever way it came."""
    units = bytearray()
    for event in events:
        if event["type"] == "delta":
            data, start = event["content"].encode("utf-16-le"), 2 * event["offset"]
            units.extend(bytes(max(start - len(units), 0)))
            units[start : start + len(data)] = data
    return units.decode("utf-16-le")


def assert_events(
    events: Sequence[Event],
    pattern: str | None = None,
    *,
    text: str | None = None,
    finish_reason: str | None = None,
    error: str | None = None,
) -> None:
    """Assert that the events of one run are whole, and what they are.

    Whole: one run, numbers without a hole, deltas that join, `threadInfo` first, one `end`, which is last. An event
    may have come again with the same content, as after a crash. `pattern` names the types in order, a word each, with
    `+` (one or more), `*` (any number) or `?` (maybe) behind it. `text` is the whole text, `finish_reason` that of
    `end`, `error` the code of the `error` event. Raises AssertionError that lists the events.
    """
    __tracebackhide__ = True  # pytest shows the line that asserts, not this one
    once = _once(events)
    problem = (
        _hole(once)
        or (pattern and _mismatch(once, pattern))
        or _difference("the text", text, text_of(once))
        or _difference("finish_reason", finish_reason, once[-1].get("finish_reason"))
        or _difference("the error", error, next((one["error"]["code"] for one in once if one["type"] == "error"), None))
    )
    if problem:
        lines = "\n".join(f"  {event['seq']:>3}  {_short(event)}" for event in once)
        raise AssertionError(f"{problem}\nThe events:\n{lines}")


def _once(events: Sequence[Event]) -> list[Event]:
    """Return the events without those that came again. AssertionError for one seq with two contents."""
    if not events:
        raise AssertionError("there are no events")
    kept: dict[int, Event] = {}
    for event in events:
        if (before := kept.setdefault(event["seq"], event)) != event:
            raise AssertionError(f"seq {event['seq']} has two contents:\n  {_short(before)}\n  {_short(event)}")
    return [kept[seq] for seq in sorted(kept)]


def _hole(events: Sequence[Event]) -> str | None:
    """Return what makes these not the whole events of one run."""
    if runs := {event["runId"] for event in events} - {events[0]["runId"]}:
        return f"these are events of {len(runs) + 1} runs"
    seqs, offset = [event["seq"] for event in events], 0
    if missing := set(range(1, max(seqs) + 1)) - set(seqs):
        return f"seq {min(missing)} is missing"
    for event in events:
        if event["type"] == "delta":
            if event["offset"] != offset:
                return f"seq {event['seq']} stands at offset {event['offset']}, and the text so far ends at {offset}"
            offset += len(event["content"].encode("utf-16-le")) // 2
    types = [event["type"] for event in events]
    if types[0] != "threadInfo":
        return f"the first event is {types[0]}, not threadInfo"
    if types.count("end") != 1 or types[-1] != "end":
        return "the run has not ended" if "end" not in types else "something follows the end"
    return None


def _mismatch(events: Sequence[Event], pattern: str) -> str | None:
    """Return where the events leave the pattern: the places they may be at are followed, event by event."""
    words = _words(pattern)
    places = _reachable(words, {0})
    for event in events:
        expected = sorted({words[place][0] for place in places if place < len(words)})
        taken = {place for place in places if place < len(words) and words[place][0] == event["type"]}
        if not taken:
            wanted = " or ".join(expected) or "nothing more"
            return f"seq {event['seq']} is {event['type']}, where {pattern!r} has {wanted}"
        again = {place for place in taken if words[place][1] in ("+", "*")}
        places = _reachable(words, again | {place + 1 for place in taken})
    return None if len(words) in places else f"the events end in the middle of {pattern!r}"


def _words(pattern: str) -> list[tuple[str, str]]:
    matches = [(word, _WORD.fullmatch(word)) for word in pattern.split()]
    for word, match in matches:
        if match is None:
            raise ValueError(f"{word!r} is no event type with +, * or ? behind it")
    return [(match[1], match[2]) for _, match in matches if match]


def _reachable(words: Sequence[tuple[str, str]], places: set[int]) -> set[int]:
    """Return the places, and those behind what may be left out."""
    reached, waiting = set(), list(places)
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            # behind a word with `+` one is taken already: its own place is there to take more, not to be skipped
            if place < len(words) and words[place][1] in ("*", "?"):
                waiting.append(place + 1)
    return reached


def _difference(what: str, expected: object, actual: object) -> str | None:
    return None if expected is None or expected == actual else f"{what} is {actual!r}, expected is {expected!r}"


def _short(event: Event) -> str:
    content = {key: value for key, value in event.items() if key not in ("type", "threadId", "runId", "seq")}
    details = str(content.get("content", content) if event["type"] == "delta" else content or "")
    return f"{event['type']:14}{details if len(details) <= _LONGEST else details[:_LONGEST] + '...'}"
