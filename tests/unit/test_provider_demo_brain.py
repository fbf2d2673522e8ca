from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.testing.provider.brain import BrainRequest
from bf_plugin.testing.provider.demo import DemoBrain
from bf_plugin.testing.provider.items import normalize
from bf_plugin.testing.provider.script import Call, Completed, Failed, Incomplete, Refusal, Reply, StreamError, Text

WEATHER = {
    "type": "function",
    "name": "getCurrentWeather",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "userMessage": {"type": "string"},
        },
    },
}
THEME = {
    "type": "function",
    "name": "ui_setTheme",
    "parameters": {
        "type": "object",
        "properties": {"theme": {"enum": ["light", "dark"]}, "note": {"type": "string", "maxLength": 10}},
    },
}
CONFETTI = {"type": "function", "name": "ui_throwConfetti", "parameters": {"type": "object", "properties": {}}}
BACKGROUND = {
    "type": "function",
    "name": "ui_setBackgroundColor",
    "parameters": {"type": "object", "properties": {"color": {"type": "string"}}},
}


def ask(*said: Any, **body: Any) -> Reply:
    items = normalize([{"role": "user", "content": one} if isinstance(one, str) else one for one in said])
    return DemoBrain()(BrainRequest(body=body, history=items[:-1], input=items[-1:]))


def spoken(reply: Reply) -> str:
    part = reply.parts[0]
    assert isinstance(part, (Text, Refusal))
    return "".join(chunk for chunk in part.chunks if isinstance(chunk, str))


def calls(reply: Reply) -> list[tuple[str, dict[str, Any]]]:
    made = [part for part in reply.parts if isinstance(part, Call)]
    return [(call.name, json.loads("".join(str(chunk) for chunk in call.chunks))) for call in made]


def test_it_answers_in_words() -> None:
    """A message without a keyword gets paragraphs, word by word, with characters beyond the basic plane."""
    reply = ask("Tell me about tea")
    assert "Tell me about tea" in spoken(reply)
    assert any(ord(character) > 0xFFFF for character in spoken(reply))
    assert isinstance(reply.parts[0], Text)
    assert len(reply.parts[0].chunks) > 20


def test_it_answers_different_messages_differently() -> None:
    """Answers vary with the message and are the same for the same one."""
    assert len({spoken(ask(said)).replace(said, "") for said in "abcdefgh"}) > 4
    assert spoken(ask("a")) == spoken(ask("a"))


@pytest.mark.parametrize(
    ("said", "locations"),
    [
        ("What's the weather like in San Francisco?", ["San Francisco"]),
        ("How is the weather?", ["San Francisco, CA"]),
        ("weather in Paris, France and in Berlin today please", ["Paris, France", "Berlin"]),
        ("Tell me the weather for Oslo. Thanks!", ["Oslo"]),
    ],
)
def test_it_asks_for_the_weather(said: str, locations: list[str]) -> None:
    """One call per city named, a default city when there is none."""
    made = calls(ask(said, tools=[WEATHER, THEME]))
    assert [arguments["location"] for _, arguments in made] == locations
    assert {name for name, _ in made} == {"getCurrentWeather"}
    assert all(arguments["userMessage"] and arguments["unit"] == "c" for _, arguments in made)


def test_it_calls_no_tool_it_was_not_offered() -> None:
    """Without the tool, with `none` or for another subject there is no call."""
    assert calls(ask("weather?")) == []
    assert calls(ask("weather?", tools=[WEATHER], tool_choice="none")) == []
    assert calls(ask("hello", tools=[WEATHER, THEME, CONFETTI, BACKGROUND])) == []


def test_it_obeys_the_tool_choice() -> None:
    """A forced tool is called whatever the message says; parallel calls can be forbidden."""
    forced = {"type": "function", "name": "ui_setTheme"}
    assert calls(ask("hi", tools=[WEATHER, THEME], tool_choice=forced))[0][0] == "ui_setTheme"
    assert calls(ask("hi", tools=[WEATHER], tool_choice="required"))[0][0] == "getCurrentWeather"
    assert len(calls(ask("weather in A and B", tools=[WEATHER], parallel_tool_calls=False))) == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("make it darker, please", ("ui_setTheme", {"theme": "dark", "note": "make it da"})),
        ('set the theme and note "ok"', ("ui_setTheme", {"theme": "light", "note": "ok"})),
        ("let's celebrate!", ("ui_throwConfetti", {})),
        ("paint everything teal", ("ui_setBackgroundColor", {"color": "teal"})),
    ],
)
def test_it_uses_the_page(said: str, expected: tuple[str, dict[str, Any]]) -> None:
    """A browser tool whose name fits the message is called with arguments from the message."""
    assert calls(ask(said, tools=[WEATHER, THEME, CONFETTI, BACKGROUND])) == [expected]


def test_it_tells_what_tools_answered() -> None:
    """Outputs of this turn are quoted, errors admitted, older ones left alone."""
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "1", "output": '{"temperature": 18, "sky": "clear"}'}
    assert "f says: temperature 18, sky clear." in spoken(ask("weather?", call, output, tools=[WEATHER]))
    assert "did not work: busy" in spoken(ask("x", call, {**output, "output": '{"error": "busy"}'}))
    assert "plain text" in spoken(ask("x", call, {**output, "output": "plain text"}))
    assert "temperature" not in spoken(ask("weather?", call, output, "thanks"))


def test_it_remembers() -> None:
    """Questions about the conversation are answered from its history."""
    assert "“I am Ada”" in spoken(ask("I am Ada", "nice", "What did I say first?"))
    assert "“nice”" in spoken(ask("I am Ada", "nice", "what did I just say?"))
    assert "nothing to remember" in spoken(ask("what did I say first?"))


@pytest.mark.parametrize(
    ("said", "ending"), [("please fail", Failed), ("error please", StreamError), ("hello", Completed)]
)
def test_it_fails_on_request(said: str, ending: type) -> None:
    """Both kinds of failure can be asked for."""
    assert isinstance(ask(said).ending, ending)


def test_it_refuses_on_request() -> None:
    """A refusal can be asked for."""
    assert isinstance(ask("refuse this").parts[0], Refusal)


def test_it_can_be_long() -> None:
    """Long answers can be asked for."""
    assert spoken(ask("count to 300")).startswith("1, 2, 3")
    assert "300." in spoken(ask("count to 300"))
    assert len(spoken(ask("tell me a long story"))) > 5_000


def test_it_keeps_to_its_budget() -> None:
    """A text longer than `max_output_tokens` words ends incomplete."""
    reply = ask("count to 300", max_output_tokens=16)
    assert isinstance(reply.ending, Incomplete)
    assert spoken(reply).split() == [f"{number}," for number in range(1, 17)]


LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "enum": ["a", "b"]},
        {"type": "integer", "minimum": 3, "maximum": 9},
        {"type": "number"},
        {"type": "boolean"},
        {"type": ["string", "null"]},
        {"const": 4},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}),
        st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)}
        ),
    ),
    max_leaves=5,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text("xyz", min_size=1), SCHEMAS, max_size=3), st.text(max_size=20))
def test_guessed_arguments_fit_their_schema(properties: dict[str, Any], said: str) -> None:
    """Whatever the schema, what is called is valid; structured output is made the same way."""
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    shape = {"type": "json_schema", "name": "x", "schema": schema}
    jsonschema.validate(json.loads(spoken(ask(f"say {said}", text={"format": shape}))), schema)
