"""How a Python function looks to a model: its description, the JSON schema of its arguments, their validation."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import NotRequired, TypedDict

from bf_plugin.values import Run, ToolCall

_SECTION = re.compile(r"(args|arguments|parameters|returns?|raises|yields|examples?|notes?):\s*$", re.IGNORECASE)
_ENTRY = re.compile(r"(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


class BadArguments(ValueError):
    """The model's arguments do not fit; the text tells the model what to change."""


class FunctionSchema:
    """What a function's signature and docstring say.

    A parameter annotated `Run` or `ToolCall` is handed in and is no part of the schema. Raises TypeError for a function
    that cannot be called with named arguments, or whose parameters pydantic has no schema for.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        _check(function, parameters)
        self._given = {name: hints[name] for name in parameters if hints.get(name) in (Run, ToolCall)}
        wanted = {name: parameter for name, parameter in parameters.items() if name not in self._given}
        self._adapter = _adapter(wanted, hints)
        self.description, explained = read_docstring(function.__doc__ or "")
        self.parameters = _describe(self._adapter, wanted, explained)

    def bind(self, run: Run, call: ToolCall) -> dict[str, Any]:
        """Return the keyword arguments for the function. Raises BadArguments."""
        try:
            arguments: dict[str, Any] = self._adapter.validate_python(dict(call.arguments))
        except ValidationError as error:
            problems = (
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False, include_context=False)
            )
            raise BadArguments(f"the arguments do not fit: {'; '.join(problems)}") from None
        return {**arguments, **{name: run if hint is Run else call for name, hint in self._given.items()}}


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which only repeat the names in other letters and cost tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _check(function: Callable[..., Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(
                f"{function.__name__}: {name} has no name a model could use, it is {parameter.kind.description}"
            )
        if type(parameter.default).__name__ == "FieldInfo":
            raise TypeError(f"{function.__name__}: write {name} as Annotated[..., Field(...)], the default after it")


def _adapter(wanted: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]) -> TypeAdapter[Any]:
    """Validate arguments as a TypedDict: any parameter name will do, and what is left out keeps Python's default."""
    fields = {
        name: hints.get(name, Any) if parameter.default is parameter.empty else NotRequired[hints.get(name, Any)]
        for name, parameter in wanted.items()
    }
    arguments = TypedDict("arguments", fields)  # type: ignore[misc]  # the fields are known at run time only
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(arguments))


def _describe(
    adapter: TypeAdapter[Any], wanted: Mapping[str, inspect.Parameter], explained: Mapping[str, str]
) -> dict[str, Any]:
    schema = adapter.json_schema(schema_generator=_Untitled)
    schema.pop("title", None)
    for name, field in schema.setdefault("properties", {}).items():
        if name in explained:
            field.setdefault("description", explained[name])
        if isinstance(wanted[name].default, (str, int, float, bool)):
            field.setdefault("default", wanted[name].default)
    return schema


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return what a Google-style docstring says before its sections, and of each parameter under `Args:`."""
    lines = inspect.cleandoc(text).splitlines()
    heads = [number for number, line in enumerate(lines) if _SECTION.match(line)]
    description = "\n".join(lines[: heads[0]] if heads else lines).strip()
    for head in heads:
        if lines[head].lower().startswith(("args", "arguments", "parameters")):
            return description, _entries(lines[head + 1 :])
    return description, {}


def _entries(lines: list[str]) -> dict[str, str]:
    """Read `name (type): text` lines of one depth; deeper lines go on, a line at the margin ends the section."""
    found: dict[str, str] = {}
    name, first = "", 0
    for line in filter(str.strip, lines):
        depth = len(line) - len(line.lstrip())
        if depth == 0:
            break
        first = first or depth
        if depth == first and (entry := _ENTRY.match(line.strip())):
            name = entry[1]
            found[name] = entry[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found
