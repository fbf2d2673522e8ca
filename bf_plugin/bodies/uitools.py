"""Tools that run in the page (`ui_`): what the model may send there, and the action that carries it.

`tools` checks their schemas here, and `run.toolcalls` their arguments. A BetterForms page parses the arguments into
action options and evaluates some keys as code. So they must match the tool's schema, hold no property that the schema
does not name, and no key that the page would evaluate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import isinf
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema

PREFIX = "ui_"
_CODE = re.compile(r"(_calc|_calcf|_function|_actions)$|^function$")
_SCALARS = {"type": ["string", "number", "boolean", "null"]}
_IN_PLACE = ("allOf", "anyOf", "oneOf")
_REFUSED = frozenset(("patternProperties", "$id", "$schema", "$dynamicRef"))
_LOOSE = frozenset(("additionalProperties", "unevaluatedProperties", "$schema"))
_MESSAGE_LIMIT = 300


class InvalidArguments(ValueError):
    """The arguments of a `ui_` call cannot go to a page; the message tells the model what to correct."""


def is_ui(name: str) -> bool:
    """Tell whether a tool of this name runs in the page."""
    return name.startswith(PREFIX) and name != PREFIX


def ui_action(name: str, arguments: Mapping[str, Any], tool_call_id: str, *, keep_prefix: bool) -> dict[str, Any]:
    """Return the `llmToolCall` action for one call; the arguments travel as JSON text, never as keys."""
    shown = name if keep_prefix else name.removeprefix(PREFIX)
    text = json.dumps(arguments, separators=(",", ":"))
    return {
        "action": "llmToolCall",
        "options": {"functions": [{"name": shown, "arguments": text}], "toolCallId": tool_call_id},
    }


def ui_schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return what makes a valid JSON schema unfit for a `ui_` tool, None if nothing does.

    Unfit are keys that a page would evaluate, properties without a name, references to other documents (validation
    would fetch them) and regular expressions outside the linear-time dialect (a slow one would stall every run).
    """
    if (path := code_key(schema)) is not None:
        return f"must not name {path}: pages evaluate such keys"
    for node in _objects({key: value for key, value in schema.items() if key != "$schema"}):
        for keyword in _REFUSED & node.keys():
            return f"must not use {keyword} in a ui_ tool"
        if isinstance(ref := node.get("$ref"), str) and not ref.startswith("#"):
            return "must not refer to other documents"
        if isinstance(pattern := node.get("pattern"), str) and _matcher(pattern) is None:
            return "has a pattern that is not supported in a ui_ tool"
    return None


def validate_ui_arguments(arguments_json: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parsed arguments of a `ui_` call. The last value of a repeated key wins.

    Raises InvalidArguments if they are not a JSON object, hold a key that pages evaluate, do not match `schema`, or
    hold a property that `schema` does not name (at any depth, whatever its `additionalProperties` says).
    """
    try:
        arguments = json.loads(arguments_json or "{}", parse_constant=_no_constant, parse_float=_finite)
        if not isinstance(arguments, dict):
            raise InvalidArguments("The arguments must be a JSON object.")
        if (path := code_key(arguments)) is not None:
            raise InvalidArguments(f"The key {path} is not allowed.")
        problem = _mismatch(arguments, schema)
    except InvalidArguments:
        raise
    except RecursionError:
        raise InvalidArguments("The arguments are nested too deeply.") from None
    except ValueError as error:
        raise InvalidArguments(f"The arguments are not JSON: {error}"[:_MESSAGE_LIMIT]) from None
    if problem:
        raise InvalidArguments(problem[:_MESSAGE_LIMIT])
    return arguments


def code_key(value: Any) -> str | None:
    """Return the dotted path of the first key, at any depth, that a page would evaluate as code; None without one."""
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, node = pending.pop()
        if isinstance(node, Mapping):
            for key, child in node.items():
                if _CODE.search(key):
                    return f"{path}{key}"
                pending.append((f"{path}{key}.", child))
        elif isinstance(node, (list, tuple)):
            pending.extend((f"{path}{index}.", child) for index, child in enumerate(node))
    return None


def _mismatch(arguments: dict[str, Any], schema: Mapping[str, Any]) -> str | None:
    from jsonschema.exceptions import UnknownType, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        validator = _validator_class()(_closed(schema), registry=Registry())
        errors = list(validator.iter_errors(arguments))
    except (Unresolvable, UnknownType, ArithmeticError, AttributeError, TypeError):
        return "The schema of this tool cannot be used."
    # A value that fits no branch of a union also counts as unevaluated; its own error says more.
    error = best_match([error for error in errors if error.validator != "unevaluatedProperties"] or errors)
    if error is None:
        return None
    path = ".".join(map(str, error.absolute_path))
    return f"{path}: {error.message}" if path else str(error.message)


@cache
def _validator_class() -> Any:
    """Draft 2020-12 with linear-time patterns: the arguments are the model's, and Python's `re` can be made to hang."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Exception]:
    from jsonschema import ValidationError

    if not isinstance(instance, str):
        return
    matches = _matcher(pattern)
    if matches is None or not matches(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _matcher(pattern: str) -> Callable[[str], bool] | None:
    """Return a search for `pattern` by pydantic's linear-time regex engine, None if that does not support it."""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern)).isinstance_python
    except (SchemaError, UnicodeError):
        return None


def _closed(schema: Any) -> Any:
    """Return `schema`, which stands for a value, so that objects have no properties but those it names.

    `unevaluatedProperties` sees through `anyOf`, `$ref` and the like, so it is set once per value. Elements of an array
    whose items the schema leaves open may only be scalars.
    """
    if schema is False:
        return False
    closed = _inner(schema) if isinstance(schema, Mapping) else {}
    closed["unevaluatedProperties"] = False
    if not closed.keys() & {"items", "prefixItems", "$ref", "if", *_IN_PLACE}:
        closed["items"] = _SCALARS
    return closed


def _inner(schema: Any) -> Any:
    """Close the values below a schema that applies to the same value as its parent (a branch of `anyOf`, a def)."""
    if not isinstance(schema, Mapping):
        return schema
    result = {key: value for key, value in schema.items() if key not in _LOOSE or value is False}
    for key, value in result.items():
        if key == "properties":
            result[key] = {name: _closed(child) for name, child in value.items()}
        elif key in ("$defs", "definitions", "dependentSchemas"):
            result[key] = {name: _inner(child) for name, child in value.items()}
        elif key in _IN_PLACE:
            result[key] = [_inner(child) for child in value]
        elif key in ("if", "then", "else"):
            result[key] = _inner(value)
        elif key == "items":
            result[key] = _closed(value)
        elif key == "prefixItems":
            result[key] = [_closed(child) for child in value]
    return result


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    pending = [value]
    while pending:
        node = pending.pop()
        if isinstance(node, Mapping):
            yield node
            pending.extend(node.values())
        elif isinstance(node, (list, tuple)):
            pending.extend(node)


def _no_constant(name: str) -> None:
    raise InvalidArguments(f"{name} is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise InvalidArguments("A number is too large.")
    return number
