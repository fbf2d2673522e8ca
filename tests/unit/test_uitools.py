"""What the model may send to a page."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.bodies.uitools import InvalidArguments, is_ui, ui_action, validate_ui_arguments

POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def refused(arguments: object, tool_schema: dict[str, Any]) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    with pytest.raises(InvalidArguments) as caught:
        validate_ui_arguments(text, tool_schema)
    return str(caught.value)


@pytest.mark.parametrize(("name", "expected"), [("ui_x", True), ("ui_", False), ("uix", False), ("UI_x", False)])
def test_names(name: str, expected: bool) -> None:
    """The prefix makes a browser tool, if a name is left without it."""
    assert is_ui(name) is expected


def test_action() -> None:
    """Arguments travel as JSON text, the name without its prefix unless the operator keeps it."""
    action = ui_action("ui_show", {"a": 'é"\ud83d'}, "tool_1", keep_prefix=False)
    arguments = action["options"]["functions"][0].pop("arguments")
    assert json.loads(arguments) == {"a": 'é"\ud83d'}
    assert arguments.isascii()
    assert action == {"action": "llmToolCall", "options": {"functions": [{"name": "show"}], "toolCallId": "tool_1"}}
    kept = ui_action("ui_show", {}, "tool_1", keep_prefix=True)
    assert kept["options"]["functions"] == [{"name": "ui_show", "arguments": "{}"}]


def test_arguments_are_parsed_once() -> None:
    """What is checked is what is sent: of a repeated key only the last value is there."""
    assert validate_ui_arguments('{"x": "no", "x": 1}', POINT) == {"x": 1}
    assert validate_ui_arguments("", schema()) == {}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("{", "The arguments are not JSON: "),
        ("[]", "The arguments must be a JSON object."),
        ("null", "The arguments must be a JSON object."),
        ('{"x": NaN}', "NaN is not JSON."),
        ('{"x": 1e999}', "A number is too large."),
        ('{"x": ' + "9" * 5000 + "}", "The arguments are not JSON: "),
        ('{"x": ' + "[" * 100_000, "The arguments are nested too deeply."),
        ('{"y": 1}', "'x' is a required property"),
        ('{"x": "1"}', "x: '1' is not of type 'number'"),
    ],
)
def test_bad_arguments_tell_the_model_what_to_correct(arguments: str, expected: str) -> None:
    """The problem is readable and short."""
    message = refused(arguments, POINT)
    assert message.startswith(expected)
    assert len(message) <= 300


@pytest.mark.parametrize("key", ["x_calc", "x_calcf", "_function", "x_actions", "function"])
def test_keys_a_page_evaluates_are_refused(key: str) -> None:
    """Code keys are refused at every depth, even where a schema (of a hook) names them."""
    assert refused({key: 1}, schema(**{key: {}})) == f"The key {key} is not allowed."
    nested = schema(a={"type": "array", "items": schema(b=schema(**{key: {}}))})
    assert refused({"a": [{}, {"b": {key: 1}}]}, nested) == f"The key a.1.b.{key} is not allowed."


LOOSE: list[tuple[dict[str, Any], Any]] = [
    (schema(), {"q": 1}),
    ({"type": "object", "properties": {}, "additionalProperties": True}, {"q": 1}),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"q": 1}),
    ({}, {"q": 1}),
    (schema(a=POINT), {"a": {"x": 1, "q": 1}}),
    (schema(a={"additionalProperties": {}}), {"a": {"q": 1}}),
    (schema(a={}), {"a": {"q": 1}}),
    (schema(a=True), {"a": {"q": 1}}),
    (schema(a={}), {"a": [{"q": 1}]}),
    (schema(a={"type": "array"}), {"a": [{"q": 1}]}),
    (schema(a={"type": "array", "items": POINT}), {"a": [{"x": 1, "q": 1}]}),
    (schema(a={"type": "array", "items": {}}), {"a": [[{"q": 1}]]}),
    (schema(a={"prefixItems": [POINT]}), {"a": [{"x": 1, "q": 1}]}),
    (schema(a={"anyOf": [POINT, {"type": "string"}]}), {"a": {"x": 1, "q": 1}}),
    (schema(a={"oneOf": [schema(b=POINT)]}), {"a": {"b": {"x": 1, "q": 1}}}),
    (schema(a={"allOf": [POINT, schema(z={})]}), {"a": {"x": 1, "z": 1, "q": 1}}),
    (schema(a={"allOf": [{"additionalProperties": True}]}), {"a": {"q": 1}}),
    ({**schema(a={"$ref": "#/$defs/p"}), "$defs": {"p": POINT}}, {"a": {"x": 1, "q": 1}}),
    ({**schema(a={"$ref": "#/definitions/p"}), "definitions": {"p": schema(b=POINT)}}, {"a": {"b": {"x": 1, "q": 1}}}),
    (schema(a={"if": {"properties": {"k": {}}}, "then": {"properties": {"l": {}}}}), {"a": {"k": 1, "q": 1}}),
    (schema(a={"dependentSchemas": {"x": POINT}}), {"a": {"x": 1, "q": 1}}),
]


@pytest.mark.parametrize(("tool_schema", "arguments"), LOOSE)
def test_unknown_properties_are_refused_at_every_level(tool_schema: dict[str, Any], arguments: Any) -> None:
    """No object holds a property its schema does not name, whatever it says of additional ones."""
    assert "'q'" in refused(arguments, tool_schema)


@pytest.mark.parametrize(
    ("tool_schema", "arguments"),
    [
        (POINT, {"x": 1.5, "y": 2}),
        (schema(a=POINT, b={"type": "array", "items": POINT}), {"a": {"x": 1}, "b": [{"x": 1}, {"x": 2, "y": 3}]}),
        (schema(a={"type": "array"}), {"a": [1, "b", None, True]}),
        (schema(a={"anyOf": [POINT, {"type": "string"}]}), {"a": {"x": 1, "y": 1}}),
        (schema(a={"anyOf": [{"type": "array", "items": POINT}, {"type": "null"}]}), {"a": [{"x": 1}]}),
        (schema(a={"allOf": [POINT, schema(z={})]}), {"a": {"x": 1, "z": 1}}),
        ({**schema(a={"$ref": "#/$defs/p"}), "$defs": {"p": POINT}}, {"a": {"x": 1}}),
        (schema(child={"$ref": "#"}), {"child": {"child": {}}}),
        ({**POINT, "additionalProperties": False}, {"x": 1}),
        ({**POINT, "$schema": "http://json-schema.org/draft-07/schema#"}, {"x": 1}),
        (schema(a={"type": "string", "pattern": "^[a-z]+$"}), {"a": "abc"}),
    ],
)
def test_named_properties_are_taken(tool_schema: dict[str, Any], arguments: Any) -> None:
    """What the schema names passes, through references and unions too, and comes back unchanged."""
    assert validate_ui_arguments(json.dumps(arguments), tool_schema) == arguments


def test_patterns_take_linear_time() -> None:
    """A caller's pattern and a model's text cannot stall the process together."""
    tool_schema = schema(a={"type": "string", "pattern": "^(a+)+$"})
    began = time.perf_counter()
    assert refused({"a": "a" * 5000 + "!"}, tool_schema).startswith("a: ")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "broken",
    [
        {"$ref": "#/$defs/none"},
        {"$ref": "https://127.0.0.1:1/schema.json"},
        {"type": "nonsense"},
        {"properties": 5},
    ],
)
def test_broken_schemas_are_an_error_for_the_model(broken: dict[str, Any]) -> None:
    """A schema nobody checked (a hook's) fails the call, not the run, and nothing is fetched."""
    assert refused({"a": 1}, broken) == "The schema of this tool cannot be used."


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abxyq"), inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.recursive(
    st.sampled_from([{}, True, {"type": "array"}, {"type": "object"}, {"type": "number"}, POINT]),
    lambda inner: (
        st.dictionaries(st.sampled_from("abxy"), inner, max_size=3).map(lambda found: schema(**found))
        | inner.map(lambda found: {"type": "array", "items": found})
        | st.lists(inner, min_size=1, max_size=2).map(lambda found: {"anyOf": found})
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from("abxyq"), JSON, max_size=3), SCHEMAS)
def test_nothing_unnamed_passes(arguments: dict[str, Any], tool_schema: Any) -> None:
    """Arguments come back as sent or are refused, and `q`, which no schema names, never passes."""
    try:
        passed = validate_ui_arguments(json.dumps(arguments), schema(a=tool_schema, b=tool_schema))
    except InvalidArguments:
        return
    assert passed == arguments
    assert '"q":' not in json.dumps(passed)
