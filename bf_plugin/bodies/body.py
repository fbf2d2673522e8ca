"""Bytes to JSON objects to checked models; each way to fail is a RequestError that names the place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isinf
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from bf_plugin.errors import RequestError, invalid

MAX_DEPTH = 100
"""Levels of nesting a body may have: later, recursive code walks what is built from it."""

KIND = "bf_kind"
"""Error type of a union whose member is chosen by the key `type`."""

SHAPE = "bf_shape"
"""Error type of a union whose member is chosen by its JSON type."""

OWN = "bf_own"
"""Error type whose message is the problem itself."""

_MAX_ERRORS = 20
_MAX_KEY = 64
_SURROGATES = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')
_PROBLEMS = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "bool_type": "must be a boolean",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "none_required": "must be null",
    "model_type": "must be an object",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} entries",
    "extra_forbidden": "is not allowed",
}

Checked = TypeVar("Checked", bound=BaseModel)


def _integral(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integral = BeforeValidator(_integral)
"""An integer as JSON schema means it: `7.0` is one, and some languages write it so. It stands after the limits."""


class Body(BaseModel):
    """A JSON object of a request. It converts nothing, and keeps unknown keys, so that they can be named as ignored."""

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of the fields that are not null."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`. The last value of a repeated key wins; a lone surrogate becomes U+FFFD.

    Raises RequestError 400 that says where the text stops being JSON.
    """
    if not body.strip():
        raise invalid("body", "is empty")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = body[: error.start].decode("utf-8", "replace")
        _not_json(before, len(before), "not UTF-8")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        _not_json(text, error.pos, error.msg)
    except _Constant:
        position = next(match.start() for match in _CONSTANT.finditer(text) if match[1])
        _not_json(text, position, "NaN and Infinity are not JSON numbers")
    except RecursionError:
        raise invalid("body", "is nested too deeply") from None
    except ValueError:
        raise invalid("body", "holds a number that is too large") from None
    if not isinstance(value, dict):
        raise invalid("body", "must be a JSON object")
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise invalid("body", "is nested too deeply")
    return _without_surrogates(value) if _ESCAPED_SURROGATE.search(text) else value


def check(model: type[Checked], value: object, at: str = "") -> Checked:
    """Return `value` as `model`. Raises RequestError 400 that names each bad field, below `at`, and quotes no value."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False)[:_MAX_ERRORS]
    problems: dict[str, str] = {}
    for detail in details:
        path, problem = _problem(detail)
        problems.setdefault(join(at, *path), problem)
    field, problem = next(iter(problems.items()))
    raise RequestError(400, f"{field} {problem}", errors=problems)


def join(*parts: str | int) -> str:
    """Return a dotted path; long and unprintable keys are shortened and escaped."""
    texts = (str(part) for part in parts if part != "")
    return ".".join(text[:_MAX_KEY] if text.isprintable() else ascii(text[:_MAX_KEY]) for text in texts)


def bodies_in(model: Body, at: str) -> Iterator[tuple[str, Body]]:
    """Yield the model at the path `at`, and all those inside it with theirs."""
    yield at, model
    fields = type(model).model_fields
    for name, value in model.__dict__.items():
        for index, child in enumerate(value) if isinstance(value, list) else (("", value),):
            if isinstance(child, Body):
                yield from bodies_in(child, join(at, fields[name].alias or name, index))


def _problem(detail: ErrorDetails) -> tuple[Sequence[str | int], str]:
    """Return path and problem. Pydantic puts tags of unions, `<so>`, among the real keys: they are left out."""
    path = [part for part in detail["loc"] if not str(part).startswith("<")]
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == KIND and not isinstance(value, Mapping):
        return path, "must be an object"
    if kind == KIND:
        return [*path, "type"], detail["msg"] if "type" in value else "is required"
    if kind in (SHAPE, OWN):
        return path, detail["msg"]
    problem = _PROBLEMS.get(kind, "is not valid").format(**context)
    if path and path[-1] == "[key]":
        return path[:-2], f"has a bad key: it {problem}"
    return path, problem


def _not_json(text: str, position: int, reason: str) -> NoReturn:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    if text[position : position + 2] in ("//", "/*") or text[position : position + 1] == "#":
        reason = "JSON has no comments"
    problem = f"is not JSON at line {line}, column {column}: {reason}"
    raise invalid("body", problem) from None


class _Constant(Exception):
    """NaN or Infinity was read."""


def _constant(_name: str) -> NoReturn:
    raise _Constant


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError
    return number


def _bounded(text: str) -> int:
    """Refuse integers that no floating-point number comes near: no part along the way could hold them."""
    number = int(text)
    if number.bit_length() > 1023:
        raise ValueError
    return number


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_finite, parse_int=_bounded)


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        children = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for group in children for child in group if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _without_surrogates(value: dict[str, Any]) -> dict[str, Any]:
    """Replace lone surrogates: a page that cuts a text in two may halve a character, which UTF-8 cannot hold."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(_SURROGATES.sub("\ufffd", text)) if _SURROGATES.search(text) else value
