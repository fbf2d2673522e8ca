"""Tool definitions in every form callers send."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.bodies import parse_start, parse_tools
from bf_plugin.errors import RequestError

WEATHER = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
EMPTY = {"type": "object", "properties": {}}


def refused(*tools: Any, field: str = "tools") -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        parse_tools(list(tools), field=field)
    assert caught.value.code == 400
    return caught.value.errors


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": WEATHER, "strict": True}},
            {"type": "function", "name": "f", "description": "d", "parameters": WEATHER, "strict": True},
        ),
        (
            {"type": "function", "name": "f", "parameters": WEATHER, "strict": False},
            {"type": "function", "name": "f", "parameters": WEATHER, "strict": False},
        ),
        (
            {"type": "function", "function": {"name": "f", "parameters": {}, "description": None}},
            {"type": "function", "name": "f", "parameters": EMPTY},
        ),
        ({"type": "function", "name": "f", "function": None}, {"type": "function", "name": "f", "parameters": EMPTY}),
        ({"type": "file_search"}, {"type": "file_search", "vector_store_ids": []}),
        (
            {
                "type": "file_search",
                "vector_store_ids": ["v"],
                "max_num_results": 5,
                "ranking_options": {"ranker": "auto"},
                "filters": {"type": "eq"},
            },
            {
                "type": "file_search",
                "vector_store_ids": ["v"],
                "max_num_results": 5,
                "ranking_options": {"ranker": "auto"},
                "filters": {"type": "eq"},
            },
        ),
        (
            {"type": "file_search", "file_search": {"max_num_results": 5, "ranking_options": {"score_threshold": 0}}},
            {
                "type": "file_search",
                "vector_store_ids": [],
                "max_num_results": 5,
                "ranking_options": {"score_threshold": 0},
            },
        ),
        ({"type": "code_interpreter"}, {"type": "code_interpreter", "file_ids": []}),
        (
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}},
            {"type": "code_interpreter", "file_ids": ["f"]},
        ),
        (
            {"type": "code_interpreter", "container": "c"},
            {"type": "code_interpreter", "file_ids": [], "container": "c"},
        ),
    ],
)
def test_forms(tool: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each tool, in the Assistants and in the Responses form, has one neutral form."""
    assert parse_tools([tool]) == (expected,)


@pytest.mark.parametrize(
    ("tool", "field", "expected"),
    [
        ("f", "", "must be an object"),
        ({}, ".type", "is required"),
        ({"type": "web_search"}, ".type", "must be function, file_search or code_interpreter"),
        ({"type": "function"}, ".function", "is required"),
        ({"type": "function", "function": {}}, ".function.name", "is required"),
        ({"type": "function", "name": "a b"}, ".name", "must match"),
        ({"type": "function", "name": "a" * 65}, ".name", "must match"),
        ({"type": "function", "name": ""}, ".name", "must match"),
        ({"type": "function", "name": "f", "strict": 1}, ".strict", "must be a boolean"),
        ({"type": "function", "name": "f", "description": 1}, ".description", "must be a string"),
        ({"type": "function", "name": "f", "parameters": []}, ".parameters", "must be an object"),
        ({"type": "function", "name": "f", "parameters": {"type": "array"}}, ".parameters", "must be a JSON schema of"),
        (
            {"type": "function", "name": "f", "parameters": {"required": "a"}},
            ".parameters",
            "is not a JSON schema: see",
        ),
        (
            {"type": "function", "name": "f", "parameters": {"properties": {"a": {"type": "text"}}}},
            ".parameters",
            "is not a JSON schema: see properties.a.type",
        ),
        ({"type": "file_search", "vector_store_ids": "v"}, ".vector_store_ids", "must be an array"),
        ({"type": "file_search", "vector_store_ids": [""]}, ".vector_store_ids.0", "must not be empty"),
        ({"type": "file_search", "max_num_results": 51}, ".max_num_results", "must be at most 50"),
        ({"type": "code_interpreter", "container": 1}, ".container", "must be a string or an object"),
        ({"type": "code_interpreter", "container": {"type": "x"}}, ".container.type", "must be 'auto'"),
        (
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": 1}},
            ".container.file_ids",
            "must be an",
        ),
    ],
)
def test_refused_tools(tool: Any, field: str, expected: str) -> None:
    """A bad tool is named below the field it stands in."""
    assert refused({"type": "file_search"}, tool)[f"tools.1{field}"].startswith(expected)


def test_large_schemas_are_checked_too() -> None:
    """A schema too large to be remembered is checked every time."""
    properties = {f"property_{index}": {"type": "string", "description": "d" * 100} for index in range(100)}
    assert parse_tools([{"type": "function", "name": "f", "parameters": {"properties": properties}}])
    bad = {"type": "function", "name": "f", "parameters": {"properties": {**properties, "last": {"type": "text"}}}}
    assert refused(bad) == {"tools.0.parameters": "is not a JSON schema: see properties.last.type"}


def test_schema_nested_beyond_reason() -> None:
    """A schema so deep that checking it would end the stack is refused."""
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(900):
        schema = {"type": "object", "properties": {"a": schema}}
    assert refused({"type": "function", "name": "f", "parameters": schema}) == {
        "tools.0.parameters": "is nested too deeply"
    }


def test_function_names_are_unique() -> None:
    """Providers refuse a name that two tools share, in whatever forms."""
    tools = [{"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}]
    assert refused(*tools, field="payload.tools") == {"payload.tools.1": "has the name of an earlier tool"}


def test_number_of_tools() -> None:
    """A run has at most 128 tools."""
    tools = [{"type": "function", "name": f"f{index}"} for index in range(129)]
    assert refused(*tools) == {"tools": "must have at most 128 entries"}
    assert len(parse_tools(tools[1:])) == 128


def test_not_a_list() -> None:
    """The list itself is checked, under the name it has for the caller."""
    with pytest.raises(RequestError) as caught:
        parse_tools({}, field="apps.portal.assistants.helper.tools")
    assert caught.value.errors == {"apps.portal.assistants.helper.tools": "must be an array"}


def ui_tool(**schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "ui_show", "parameters": {"type": "object", **schema}}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"x_calc": {}}}, "must not name properties.x_calc"),
        ({"properties": {"x_calcf": {}}}, "must not name properties.x_calcf"),
        ({"properties": {"x_function": {}}}, "must not name properties.x_function"),
        ({"properties": {"x_actions": {}}}, "must not name properties.x_actions"),
        ({"properties": {"function": {}}}, "must not name properties.function"),
        ({"properties": {"a": {"properties": {"b_calc": {}}}}}, "must not name properties.a.properties.b_calc"),
        ({"properties": {"a": {"items": {"properties": {"b_calc": {}}}}}}, "must not name"),
        ({"anyOf": [{}, {"properties": {"b_calc": {}}}]}, "must not name anyOf.1.properties.b_calc"),
        ({"$defs": {"d": {"properties": {"b_calc": {}}}}}, "must not name"),
        ({"patternProperties": {"^a": {}}}, "must not use patternProperties"),
        ({"properties": {"a": {"$ref": "https://example.org/schema"}}}, "must not refer to other documents"),
        ({"properties": {"a": {"$id": "https://example.org/"}}}, "must not use $id"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}}, "must not use $schema"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "has a pattern that is not supported"),
    ],
)
def test_ui_tools_name_nothing_a_page_evaluates(schema: dict[str, Any], expected: str) -> None:
    """A `ui_` tool's schema with a key that is code in a page is refused, at any depth; other tools may have it."""
    problem = refused(ui_tool(**schema))["tools.0.function.parameters"]
    assert problem.startswith(expected)
    assert parse_tools([{"type": "function", "name": "show", "parameters": schema}])


def test_ui_tools_may_name_similar_keys() -> None:
    """Only keys that end so, or are `function`, are evaluated."""
    names = ("calc", "x_calculated", "actions", "functions", "my_function_name")
    schema = {
        "properties": {name: {"pattern": "^[a-z]+$"} for name in names},
        "$schema": "http://json-schema.org/schema#",
    }
    assert len(parse_tools([ui_tool(**schema)])) == 1


def test_polling_refuses_ui_tools() -> None:
    """A caller that waits for the answer has no page for a `ui_` tool; `ui_` alone is an ordinary name."""
    payload = {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "code_interpreter"}, ui_tool()]}
    with pytest.raises(RequestError) as caught:
        parse_start({"payload": payload})
    assert caught.value.errors == {
        "payload.tools.1": "is a ui_ tool, which needs a page: payload.stream must be true",
    }
    streaming = {"channels": "c", "actionName": "a", "payload": {**payload, "stream": True}}
    assert len(parse_start(streaming).tools or ()) == 2
    parse_start({"payload": {**payload, "tools": [{"type": "function", "name": "ui_"}]}})
