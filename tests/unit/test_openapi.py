"""The API's own description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bf_plugin.bodies import parse_start
from bf_plugin.errors import NAMES, RequestError
from bf_plugin.web.openapi import document

DOCUMENT = document()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from nodes(child)


def accepts(body: Any) -> bool:
    start = DOCUMENT["paths"]["/stream/create/assistants"]["post"]["requestBody"]["content"]["application/json"]
    return Draft202012Validator({**start["schema"], "components": DOCUMENT["components"]}).is_valid(body)


def test_every_route_is_described() -> None:
    """All resources are there, each operation with its own id."""
    operations = {
        (path, method): what["operationId"] for path, item in DOCUMENT["paths"].items() for method, what in item.items()
    }
    prefix = "/stream/create/assistants"
    assert set(operations) == {
        (prefix, "post"),
        (f"{prefix}/stop", "post"),
        (f"{prefix}/tool-response", "post"),
        ("/llm/tool-response", "post"),
        (f"{prefix}/runs/{{runId}}", "get"),
        (f"{prefix}/runs/{{runId}}/events", "get"),
        (f"{prefix}/threads/{{threadId}}", "delete"),
        (f"{prefix}/threads/{{threadId}}/messages", "get"),
        (f"{prefix}/openapi.json", "get"),
        (f"{prefix}/healthz", "get"),
        (f"{prefix}/readyz", "get"),
        (f"{prefix}/plugins", "get"),
    }
    assert len(set(operations.values())) == len(operations)


def test_references_lead_somewhere() -> None:
    """Every `$ref` names a component, and every schema is one."""
    for node in nodes(DOCUMENT):
        if isinstance(ref := node.get("$ref"), str):
            _, section, kind, name = ref.split("/")
            assert name in DOCUMENT[section][kind]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_errors_share_one_schema() -> None:
    """Every error answer but a host's own, and readiness's, has the one error body, of a known status."""
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            errors = {code: answer for code, answer in operation["responses"].items() if code[0] != "2"}
            for code, answer in errors.items():
                if code == "default" or (code, path.rpartition("/")[2]) == ("503", "readyz"):
                    continue
                assert int(code) in NAMES
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}


def test_providers_are_the_installed_ones() -> None:
    """A provider nobody answers to is against the description."""
    schema = document(providers=["openai", "other"])["components"]["schemas"]["PollingPayload"]
    assert schema["properties"]["provider"] == {"enum": ["openai", "other", None]}


MESSAGES = [{"role": "user", "content": "a"}]
STREAM = {"channels": "c", "actionName": "a"}


@pytest.mark.parametrize(
    "body",
    [
        {"payload": {"messages": MESSAGES}},
        {"payload": {"messages": MESSAGES, "stream": True}, **STREAM},
        {"payload": {"messages": MESSAGES, "stream": True}},
        {"payload": {"messages": MESSAGES, "stream": True}, "channels": "c"},
        {"payload": {"messages": MESSAGES, "stream": 1}, **STREAM},
        {"payload": {"messages": MESSAGES, "stream": None}, "channels": []},
        {"payload": {"messages": []}},
        {"payload": {"messages": [{"role": "user", "content": ""}]}},
        {"payload": {"messages": [{"role": "user", "content": [{"type": "input_image"}]}]}},
        {"payload": {"messages": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}},
        {"payload": {"messages": [{"role": "user", "content": [{"type": "output_text", "text": "a"}]}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "function"}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "function", "name": "f"}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f g"}}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "function", "name": "f", "parameters": {"type": "x"}}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "function", "name": "f", "parameters": None}]}},
        {"payload": {"messages": MESSAGES, "tools": [{"type": "code_interpreter", "container": 1}]}},
        {"payload": {"messages": MESSAGES, "toolChoice": {"type": "function", "name": "f"}}},
        {"payload": {"messages": MESSAGES, "tool_choice": "any"}},
        {"payload": {"messages": MESSAGES, "temperature": 3}},
        {"payload": {"messages": MESSAGES, "max_completion_tokens": 7.0}},
        {"payload": {"messages": MESSAGES, "max_completion_tokens": 0}},
        {"payload": {"messages": MESSAGES, "metadata": {"k" * 65: ""}}},
        {"payload": {"messages": MESSAGES, "providerArgs": {"store": True}}},
        {"payload": {"messages": MESSAGES, "response_format": {"type": "json_schema"}}},
        {"payload": {"messages": MESSAGES, "unknown": 1}, "unknown": 2},
    ],
)
def test_description_and_validation_agree(body: dict[str, Any]) -> None:
    """The document allows what the endpoint takes, and nothing else."""
    try:
        parse_start(body)
    except RequestError:
        assert not accepts(body)
    else:
        assert accepts(body)
