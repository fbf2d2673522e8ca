"""Tool definitions of callers and of configured assistants, in every form callers send."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, RootModel, Tag, ValidationInfo, WithJsonSchema, field_validator
from pydantic_core import PydanticCustomError

from bf_plugin.bodies import uitools
from bf_plugin.bodies.body import KIND, OWN, SHAPE, Body, Integral, check, join
from bf_plugin.bodies.messages import Id
from bf_plugin.errors import invalid
from bf_plugin.items import CodeInterpreterTool, FileSearchTool, FunctionTool, Tool

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
MAX_TOOLS = 128

_REMEMBERED = 8192
_TOO_DEEP = "is nested too deeply"
_SCHEMA_TYPES = ["array", "boolean", "integer", "null", "number", "object", "string"]
_PROPERTY = {
    "type": "object",
    "properties": {"type": {"type": "string", "enum": _SCHEMA_TYPES}, "description": {"type": "string"}},
}
_PARAMETERS = {
    "type": "object",
    "description": "A JSON schema (draft 2020-12) of type object",
    "properties": {
        "type": {"const": "object"},
        "properties": {"type": "object", "additionalProperties": _PROPERTY},
        "required": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    },
}


class FunctionDefinition(Body):
    """A function; `parameters` is its JSON schema."""

    name: Name
    description: str | None = None
    parameters: Annotated[dict[str, Any], WithJsonSchema(_PARAMETERS)] | None = None
    strict: bool | None = None

    @field_validator("parameters")
    @classmethod
    def _is_schema(cls, parameters: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        problem = schema_problem(parameters or {})
        if not problem and uitools.is_ui(info.data.get("name", "")):
            problem = uitools.ui_schema_problem(parameters or {})
        if problem:
            raise PydanticCustomError(OWN, "{problem}", {"problem": problem})
        return parameters

    def tool(self) -> FunctionTool:
        """Return the neutral tool. Providers want `type` and `properties` even for a function without parameters."""
        schema = {"type": "object", "properties": {}, **(self.parameters or {})}
        known = {"type": "function", "name": self.name, "parameters": schema}
        return cast("FunctionTool", {**known, **self.given("description", "strict")})


class FlatFunction(FunctionDefinition):
    """A function tool, Responses form."""

    type: Literal["function"]


class NestedFunction(Body):
    """A function tool, Assistants form."""

    type: Literal["function"]
    function: FunctionDefinition

    def tool(self) -> FunctionTool:
        """Return the neutral tool."""
        return self.function.tool()


class FileSearchOptions(Body):
    """How to search."""

    max_num_results: Annotated[int, Field(ge=1, le=50), Integral] | None = None
    ranking_options: dict[str, Any] | None = None


class FileSearch(FileSearchOptions):
    """File search, with its options beside (Responses) or in `file_search` (Assistants)."""

    type: Literal["file_search"]
    vector_store_ids: list[Id] | None = None
    filters: dict[str, Any] | None = None
    file_search: FileSearchOptions | None = None

    def tool(self) -> FileSearchTool:
        """Return the neutral tool."""
        nested, names = self.file_search or FileSearchOptions(), FileSearchOptions.model_fields
        known = {"type": "file_search", "vector_store_ids": list(self.vector_store_ids or ())}
        beside = {name: value for name, value in self.given(*names).items() if value or name not in nested.given(name)}
        return cast("FileSearchTool", {**known, **nested.given(*names), **beside, **self.given("filters")})


class AutoContainer(Body):
    """A fresh container with files."""

    type: Literal["auto"]
    file_ids: list[Id] | None = None


class CodeInterpreter(Body):
    """Code interpreter, in a fresh container, which is the default, or in an existing one."""

    type: Literal["code_interpreter"]
    container: (
        Annotated[
            Annotated[Id, Tag("<id>")] | Annotated[AutoContainer, Tag("<auto>")],
            Discriminator(
                lambda value: {str: "<id>", dict: "<auto>"}.get(type(value)),
                custom_error_type=SHAPE,
                custom_error_message="must be a string or an object",
            ),
        ]
        | None
    ) = None

    def tool(self) -> CodeInterpreterTool:
        """Return the neutral tool."""
        if isinstance(self.container, str):
            return {"type": "code_interpreter", "file_ids": [], "container": self.container}
        files = self.container.file_ids if self.container else None
        return {"type": "code_interpreter", "file_ids": list(files or ())}


def _tool_kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function":
        nested = isinstance(value.get("function"), dict) or "name" not in value
        return "<nested function>" if nested else "<flat function>"
    return f"<{kind}>" if isinstance(kind, str) else None


AnyTool = Annotated[
    Annotated[NestedFunction, Tag("<nested function>")]
    | Annotated[FlatFunction, Tag("<flat function>")]
    | Annotated[FileSearch, Tag("<file_search>")]
    | Annotated[CodeInterpreter, Tag("<code_interpreter>")],
    Discriminator(
        _tool_kind,
        custom_error_type=KIND,
        custom_error_message="must be function, file_search or code_interpreter",
    ),
]
AnyTools = Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)]


class Tools(RootModel[AnyTools]):
    """A list of tools on its own."""


def parse_tools(tools: object, *, field: str = "tools") -> tuple[Tool, ...]:
    """Return tool definitions in the neutral form. Raises RequestError 400 that names what is wrong, below `field`."""
    return neutral_tools(check(Tools, tools, field).root, field)


def neutral_tools(
    tools: Sequence[NestedFunction | FlatFunction | FileSearch | CodeInterpreter], field: str
) -> tuple[Tool, ...]:
    """Return checked tools in the neutral form. Raises RequestError 400 for a function name used twice."""
    neutral = tuple(tool.tool() for tool in tools)
    names: set[str] = set()
    for index, tool in enumerate(neutral):
        if tool["type"] == "function":
            if tool["name"] in names:
                raise invalid(join(field, index), "has the name of an earlier tool")
            names.add(tool["name"])
    return neutral


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Return why this is no JSON schema for a function's parameters, None if it is one."""
    if schema.get("type", "object") != "object":
        return "must be a JSON schema of type object"
    if not schema:
        return None
    try:
        text = json.dumps(schema)
    except RecursionError:
        return _TOO_DEEP
    return _checked(text) if len(text) <= _REMEMBERED else _checked.__wrapped__(text)


@lru_cache(maxsize=256)
def _checked(text: str) -> str | None:
    """Check against the meta-schema; remembered, since a page sends the same tools with every message (0.8 ms each)."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except SchemaError as error:
        return f"is not a JSON schema: see {join(*error.absolute_path) or 'its top level'}"
    except RecursionError:
        return _TOO_DEEP
    return None
