"""What is asked is what the providers' published schemas allow, whatever a thread has become."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bf_plugin.items import text_message

IDS = ("call_1", "call_2", "call.3/" + "x" * 60)
PNG = "data:image/png;base64,iVBORw0KGgo="
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}

texts = st.one_of(st.sampled_from(["", " ", "Hi", "\ud83d", "line\nline"]), st.text(max_size=5))
text_parts = st.builds(lambda text: {"type": "text", "text": text}, texts)
other_parts = st.sampled_from(
    [
        {"type": "image", "url": PNG},
        {"type": "image", "url": "https://example.com/a.png", "detail": "low"},
        {"type": "image", "url": "data:image/png,raw"},
        {"type": "image", "file_id": "file-of-openai"},
        {"type": "image", "file_id": "file_of_anthropic"},
        {"type": "image", "file_id": "files/of-gemini"},
        {"type": "file", "data": "JVBERi0=", "filename": "a.pdf"},
        {"type": "file", "data": "data:text/plain;base64,SGk=", "filename": "a.txt"},
        {"type": "file", "data": "data:text/plain;base64,not base64", "filename": "a.txt"},
        {"type": "file", "url": "https://example.com/a.pdf"},
        {"type": "file", "url": "https://example.com/unknown"},
        {"type": "file", "file_id": "file_of_anthropic"},
    ]
)
messages = st.one_of(
    st.builds(
        lambda role, content: {"type": "message", "role": role, "content": content},
        st.sampled_from(["assistant", "system", "developer"]),
        st.lists(text_parts, max_size=2),
    ),
    st.builds(
        lambda content: {"type": "message", "role": "user", "content": content},
        st.lists(st.one_of(text_parts, other_parts), max_size=3),
    ),
)
calls = st.builds(
    lambda call_id, arguments: {"type": "function_call", "call_id": call_id, "name": "f", "arguments": arguments},
    st.sampled_from(IDS),
    st.sampled_from(["{}", "", '{"place": "Ulm"}', "no json", "[1, 2]", '"\\ud83d"']),
)
outputs = st.builds(
    lambda call_id, output: {"type": "function_output", "call_id": call_id, "output": output},
    st.sampled_from(IDS),
    texts,
)
threads = st.lists(st.one_of(messages, calls, outputs), max_size=8)
tools = st.lists(
    st.sampled_from(
        [
            {"type": "function", "name": "f", "parameters": PLACE, "description": "Does", "strict": True},
            {"type": "function", "name": "g", "parameters": {"type": "object", "properties": {}}},
        ]
    ),
    max_size=2,
    unique_by=lambda tool: tool["name"],
)
options = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.sampled_from([0.1, 1]),
        "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]),
        "response_format": st.sampled_from(
            [
                {"type": "text"},
                {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
            ]
        ),
        "reasoning_effort": st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
        "parallel_tool_calls": st.booleans(),
        "provider_args": st.just(
            {"safety_identifier": "someone", "service_tier": "flex", "text": {"verbosity": "low"}}
        ),
    },
)
thorough = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example is asked of a server: shrinking takes minutes
)


def ids(entries, kind):
    """Return what is called or answered in a turn. Results come first: no API takes anything before them."""
    found = [entry.removeprefix(kind) for entry in entries if entry.startswith(kind)]
    assert kind == "call " or [entry.startswith(kind) for entry in entries[: len(found)]] == [True] * len(found)
    return found


@pytest.mark.parametrize("reasoning", [0, 1])
def test_any_thread_is_asked_as_the_schema_has_it(bench, dialect, published, reasoning):
    """Whatever an interruption, another provider or a plugin has left in a thread: each call is answered once, next."""
    section = {
        "anthropic": {"reasoning": ("adaptive", "budget")[reasoning]},
        "gemini": {"reasoning": ("level", "budget")[reasoning]},
        "chat": ({}, {"short_call_ids": True, "developer_role": True, "max_tokens_field": "max_completion_tokens"})[
            reasoning
        ],
    }[dialect.name]

    @thorough
    @given(threads, tools, options, st.sampled_from([None, 9000]), st.integers(1, 2))
    def check(thread, tools, options, max_tokens, number):
        last = text_message("user", "Go on")
        step = {"tools": tools, "options": options, "max_tokens": max_tokens, "number": number}
        body = bench.asked(dialect, *thread, last, section=section, instructions="Be brief.", **step)
        assert published.problems(dialect.path, body) == []
        turns = dialect.turns(body)
        roles = [role for role, _ in turns]
        begins = dialect.name == "chat" and roles[0] == "assistant"  # which the others do not take
        assert roles == (["user", "assistant"] * len(roles))[begins : len(roles) + begins]
        assert "Go on" in turns[-1][1][-1]
        for (_, said), (_, answered) in itertools.pairwise([("", []), *turns, ("", [])]):
            assert ids(answered, "answer ") == ids(said, "call ")

    check()


def test_a_broken_schema_is_noticed(published, dialect, bench):
    """The schemas are closed: what this suite relies on."""
    body = bench.asked(dialect, text_message("user", "Hi"), tools=[{"type": "function", "name": "f", "parameters": {}}])
    assert published.problems(dialect.path, body) == []
    assert published.problems(dialect.path, {**body, "surprise": 1}) != []
    text = json.dumps(body).replace('"name"', '"nome"')
    assert published.problems(dialect.path, json.loads(text)) != []
