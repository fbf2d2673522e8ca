"""Events: their shapes, seq and offset, joining, and what never becomes a key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, Deployment
from bf_plugin.testing.provider import Gate, call, failed, incomplete, reply, text

Deploy = Callable[..., Deployment]
CODE = re.compile(r"(_calc|_calcf|_function|_actions)$|^function$")
NASTY = "evil_calc"
ASTRAL = "a\U0001f600b\U0001f468\u200d\U0001f469\u200d\U0001f467\u00e9c"


def utf16(value: str) -> int:
    """Return JavaScript's length of a text."""
    return len(value.encode("utf-16-le")) // 2


def keys_of(value: Any) -> Iterator[str]:
    """Yield every object key at any depth."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield key
            yield from keys_of(child)
    elif isinstance(value, list):
        for child in value:
            yield from keys_of(child)


def check_sequence(events: list[dict[str, Any]], run: dict[str, Any]) -> None:
    """Check all that holds for the events of any run."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert {(event["threadId"], event["runId"]) for event in events} == {(run["threadId"], run["runId"])}
    assert events[0]["type"] == "threadInfo"
    assert [event["type"] for event in events].index("end") == len(events) - 1
    offset = 0
    for event in events:
        if event["type"] == "delta":
            assert event["content"] != ""
            assert event["offset"] == offset
            offset += utf16(event["content"])
            assert utf16(event["content"]) <= 8192


# -- the message


def test_message_shape(deploy: Deploy) -> None:
    """A message is `{apiKey, channels, message: {actions}}`, each action a named action with the event as options."""
    deployed = deploy(messaging="http")
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.events(run)

    for attempt in deployed.gateway.attempts:
        body = json.loads(attempt.body)
        assert set(body) == {"apiKey", "channels", "message"}
        assert (body["apiKey"], body["channels"]) == (APP_KEY, [CHANNEL])
        assert set(body["message"]) == {"actions"}
        for action in body["message"]["actions"]:
            assert set(action) == {"action", "name", "options"}
            assert (action["action"], action["name"]) == ("namedAction", ACTION)


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_event_styles(deploy: Deploy, style: str) -> None:
    """`BF_EVENT_STYLE` puts the event in the options, below `data`, or both."""
    deployed = deploy(event_style=style)
    deployed.provider.script("Hello")
    deployed.start()
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.actions() if '"type": "end"' in json.dumps(one)])

    for action in deployed.gateway.actions():
        options = action["options"]
        flat = {key: value for key, value in options.items() if key != "data"}
        assert bool(flat) == (style != "data")
        assert ("data" in options) == (style != "options")
        if style == "both":
            assert options["data"] == flat


# -- each event


def test_all_shapes(deployed: Deployment) -> None:
    """threadInfo, delta, function_call and end have the published keys, and ours beside them."""
    deployed.provider.script(
        reply(text("Hi"), call("look", {"userMessage": "Looking", "q": 1}), call("other"), usage=(3, 4)),
        reply(text("!"), usage=(5, 6)),
    )
    offered = [{"type": "function", "name": name} for name in ("look", "other")]
    run = deployed.start(tools=offered)

    events = deployed.events(run)

    check_sequence(events, run)
    ids = {"threadId": run["threadId"], "runId": run["runId"]}
    assert events == [
        {
            "type": "threadInfo",
            "content": {"assistantThreadId": run["threadId"], "runId": run["runId"]},
            **ids,
            "seq": 1,
        },
        {"type": "delta", "content": "Hi", "offset": 0, **ids, "seq": 2},
        {
            "type": "function_call",
            "content": {
                "functions": [{"name": "look", "userMessage": "Looking"}, {"name": "other", "userMessage": None}]
            },
            **ids,
            "seq": 3,
        },
        {"type": "delta", "content": "!", "offset": 2, **ids, "seq": 4},
        {
            "type": "end",
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 8, "completion_tokens": 10, "total_tokens": 18},
            **ids,
            "seq": 5,
        },
    ]


def test_error_shape(deployed: Deployment) -> None:
    """An error has message, code and details, its message as content too, and `end` follows."""
    deployed.provider.script([text("Half"), failed("out of steam", code="server_error")])
    run = deployed.start()

    *_, error, end = events = deployed.events(run)

    check_sequence(events, run)
    assert set(error) == {"type", "error", "content", "threadId", "runId", "seq"}
    assert set(error["error"]) == {"message", "code", "details"}
    assert error["content"] == error["error"]["message"]
    assert "out of steam" in error["content"]
    assert error["error"]["code"] == "server_error"
    assert end["finish_reason"] == "error"
    assert set(end["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(incomplete("max_output_tokens"), "length"), (incomplete("content_filter"), "content_filter")],
)
def test_finish_reasons(deployed: Deployment, ending: Any, reason: str) -> None:
    """`end` says how the provider ended."""
    deployed.provider.script([text("Half"), ending])
    run = deployed.start()

    events = deployed.events(run)

    assert [event["type"] for event in events] == ["threadInfo", "delta", "end"]
    assert events[-1]["finish_reason"] == reason


def test_function_call_comes_before_execution(deploy: Deploy) -> None:
    """A step's calls are announced together, once, before any of them has run."""
    from bf_plugin import Toolbox

    tools = Toolbox("seen")
    seen: list[Any] = []

    @tools.tool()
    def look() -> str:
        """Look whether the page was told."""
        deployed.gateway.wait_for(lambda: deployed.gateway.events(type="function_call"))
        seen.append([event["content"] for event in deployed.gateway.events(type="function_call")])
        return "ok"

    deployed = deploy(plugins=[tools])
    deployed.provider.script([call("look"), call("look")], "Done")
    run = deployed.start(tools=[{"type": "function", "name": "look"}])

    events = deployed.events(run)

    assert [event["type"] for event in events] == ["threadInfo", "function_call", "delta", "end"]
    assert seen == [[{"functions": [{"name": "look", "userMessage": None}] * 2}]] * 2


@pytest.mark.parametrize("message", [7, {"a": 1}, ["x"], None])
def test_user_message_is_a_string(deployed: Deployment, message: Any) -> None:
    """A `userMessage` that is no string is null, and arguments are never sent."""
    deployed.provider.script([call("look", {"userMessage": message, "secret_argument": "s3cret"})], "Done")
    run = deployed.start(tools=[{"type": "function", "name": "look"}])

    (event,) = [event for event in deployed.events(run) if event["type"] == "function_call"]

    assert event["content"]["functions"] == [{"name": "look", "userMessage": None}]
    assert not any(b"s3cret" in attempt.body for attempt in deployed.gateway.attempts)


@pytest.mark.parametrize("script", ["", [text("")], [text("", "", "")]])
def test_no_empty_delta(deployed: Deployment, script: Any) -> None:
    """A delta is never empty: a model that says nothing gives none."""
    deployed.provider.script(script)
    run = deployed.start()

    assert [event["type"] for event in deployed.events(run)] == ["threadInfo", "end"]


# -- text


@pytest.mark.parametrize("halves", [False, True])
def test_astral_characters(deployed: Deployment, halves: bool) -> None:
    """Offsets count UTF-16 units and no delta splits a pair, not even where the provider does."""
    if halves:
        deployed.provider.fault("lone_surrogates")
    gates = [Gate() for _ in ASTRAL]
    chunks: list[str | Gate] = [each for pair in zip(ASTRAL, gates, strict=True) for each in pair]
    deployed.provider.script(text(*chunks))
    run = deployed.start()
    for position, gate in enumerate(gates):
        gate.wait_reached()
        deployed.wait_for_text(run, ASTRAL[: position + 1])
        gate.release()

    events = deployed.events(run)

    check_sequence(events, run)
    assert [event["content"] for event in events if event["type"] == "delta"] == list(ASTRAL)
    assert deployed.text(run) == ASTRAL


@pytest.mark.parametrize(
    ("chunks", "shown"),
    [
        (("a\ud83d", "\ude00b"), "a\U0001f600b"),
        (("a\ud83d", "b"), "a\ufffdb"),
        (("x\ude00", "b"), "x\ufffdb"),
        (("a", "b\ud83d"), "ab\ufffd"),
        (("\ud83d\ud83d", "\ude00"), "\ufffd\U0001f600"),
    ],
)
def test_lone_surrogates(deployed: Deployment, chunks: tuple[str, ...], shown: str) -> None:
    """Halves are joined; a lone surrogate is replaced, not fatal."""
    deployed.provider.script(text(*chunks))
    run = deployed.start()

    events = deployed.events(run)

    check_sequence(events, run)
    assert (events[-1]["finish_reason"], deployed.text(run)) == ("stop", shown)


def test_cut_at_8_kib(deployed: Deployment) -> None:
    """Joined deltas are cut at 8 KiB, never inside a pair, and nothing is lost."""
    said = "x" * 8191 + "\U0001f600" * 9000 + "y" * 20_000
    deployed.provider.script(text(*(said[start : start + 999] for start in range(0, len(said), 999))))
    run = deployed.start()

    events = deployed.events(run)

    check_sequence(events, run)
    assert deployed.text(run) == said


def test_first_delta_at_once(deploy: Deploy) -> None:
    """The first delta does not wait for the joining interval; what follows within it is joined."""
    deployed = deploy(coalesce_ms=500)
    first, rest = Gate(), Gate()
    deployed.provider.script(text("one ", first, "two ", "three ", "four", rest))
    run = deployed.start()
    first.wait_reached()
    deployed.wait_for_text(run, "one ")
    first.release()
    rest.wait_reached()
    deployed.wait_for_text(run, "one two three four")
    rest.release()

    deltas = [event["content"] for event in deployed.events(run) if event["type"] == "delta"]

    assert deltas == ["one ", "two three four"]
    sent = [attempt.at for attempt in deployed.gateway.messages if attempt.actions[-1]["options"]["type"] == "delta"]
    assert sent[-1] - sent[0] >= 0.45


def test_joining_while_in_flight(deploy: Deploy) -> None:
    """While a message is in flight deltas are joined into one, even without an interval."""
    deployed = deploy(coalesce_ms=0)
    first, rest, last = Gate(), Gate(), Gate()
    deployed.provider.script(text("one ", first, "two ", rest, *"three four", last))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    deployed.gateway.fault("hang")
    first.release()
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])
    rest.release()
    last.wait_reached()
    last.release()
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["completed"])
    deployed.gateway.release()

    deltas = [event["content"] for event in deployed.events(run) if event["type"] == "delta"]

    assert "".join(deltas) == "one two three four"
    assert deltas[:2] == ["one ", "two "]
    assert len(deltas) <= 4


def test_other_events_flush(deploy: Deploy) -> None:
    """An event that is no delta does not wait for the interval, and text before it goes first."""
    deployed = deploy(coalesce_ms=500)
    gate = Gate()
    deployed.provider.script([text("one ", gate, "two"), call("nobody")], "three")
    run = deployed.start(tools=[{"type": "function", "name": "nobody"}])
    deployed.wait_for_text(run, "one ")
    gate.release()

    events = deployed.events(run)

    kinds = [(event["type"], event.get("content")) for event in events if event["type"] == "delta"]
    assert kinds == [("delta", "one "), ("delta", "two"), ("delta", "three")]
    assert [event["type"] for event in events][-4:] == ["delta", "function_call", "delta", "end"]
    check_sequence(events, run)


def test_several_events_in_one_message(deployed: Deployment) -> None:
    """Events of one run may share a message as several actions, in order."""
    deployed.provider.script([text("a"), call("nobody"), call("nobody")], [text("b"), call("nobody")], "c")
    run = deployed.start(tools=[{"type": "function", "name": "nobody"}])

    check_sequence(deployed.events(run), run)


# -- keys


def test_nothing_of_the_model_is_a_key(deployed: Deployment) -> None:
    """What the model, a tool or an upstream error wrote is never an object key, at any depth."""
    arguments = {NASTY: 1, "function": {"x_actions": [{"y_calcf": 1}]}, "userMessage": '{"z_function": 1}'}
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}}
    deployed.provider.script(
        [text('{"evil_calc": 1}'), call("function", arguments), call("ui_show", {"a": {"b": "c"}}), call(NASTY)],
        [text("x"), failed(json.dumps({NASTY: 1}), code=NASTY)],
    )
    ui = {"type": "function", "name": "ui_show", "parameters": schema}
    run = deployed.start(tools=[{"type": "function", "name": "function"}, {"type": "function", "name": NASTY}, ui])
    action = deployed.gateway.wait_for(lambda: deployed.gateway.actions("llmToolCall"))[0]
    answer = {"toolCallId": action["options"]["toolCallId"], "success": True, NASTY: {"function": 1}}
    deployed.post("/tool-response", answer)
    events = deployed.events(run)

    assert events[-2]["error"]["code"] == NASTY  # as a value it may
    ours = {"action", "actions", "apiKey", "arguments", "assistantThreadId", "calls", "channels", "code"}
    ours |= {"completion_tokens", "content", "details", "error", "finish_reason", "functions", "message", "name"}
    ours |= {"offset", "options", "prompt_tokens", "runId", "seq", "threadId", "toolCallId", "total_tokens", "type"}
    ours |= {"usage", "userMessage"}
    for attempt in deployed.gateway.attempts:
        keys = set(keys_of(json.loads(attempt.body)))
        assert keys <= ours
        assert not any(CODE.search(key) for key in keys)
