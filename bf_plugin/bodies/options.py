"""Generation parameters that are more than a number: tool choice, response format, provider arguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from bf_plugin.bodies.body import KIND, SHAPE, Body, Integral
from bf_plugin.bodies.tools import Name


class _Kind(Body):
    """Says all it has to say with its `type`."""

    type: str

    def value(self) -> dict[str, Any]:
        """Return it in the Assistants' form."""
        return {"type": self.type}


class FunctionName(Body):
    """Names a function."""

    name: Name


class NestedChoice(Body):
    """One function, Assistants form."""

    type: Literal["function"]
    function: FunctionName

    def value(self) -> dict[str, Any]:
        """Return the choice in the Assistants' form."""
        return {"type": "function", "function": {"name": self.function.name}}


class FlatChoice(FunctionName):
    """One function, Responses form."""

    type: Literal["function"]

    def value(self) -> dict[str, Any]:
        """Return the choice in the Assistants' form."""
        return {"type": "function", "function": {"name": self.name}}


class BuiltInChoice(_Kind):
    """One of the provider's own tools."""

    type: Literal["file_search", "code_interpreter"]


def _choice_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<mode>"
    if not isinstance(value, dict):
        return None
    if value.get("type") != "function":
        return "<built-in>"
    return "<flat>" if "name" in value and not isinstance(value.get("function"), dict) else "<nested>"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<mode>")]
    | Annotated[NestedChoice, Tag("<nested>")]
    | Annotated[FlatChoice, Tag("<flat>")]
    | Annotated[BuiltInChoice, Tag("<built-in>")],
    Discriminator(_choice_kind, custom_error_type=SHAPE, custom_error_message="must be a string or an object"),
]


class PlainFormat(_Kind):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaDefinition(Body):
    """A named JSON schema for the answer."""

    name: Name
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON of one schema."""

    type: Literal["json_schema"]
    json_schema: SchemaDefinition

    def value(self) -> dict[str, Any]:
        """Return the format in the Assistants' form."""
        named = self.json_schema.given("name", "description", "strict")
        return {"type": "json_schema", "json_schema": {**named, "schema": self.json_schema.schema_}}


def _format_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<auto>"
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object"):
        return "<plain>"
    return "<schema>" if kind == "json_schema" else None


ResponseFormat = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")]
    | Annotated[PlainFormat, Tag("<plain>")]
    | Annotated[SchemaFormat, Tag("<schema>")],
    Discriminator(
        _format_kind, custom_error_type=KIND, custom_error_message="must be text, json_object or json_schema"
    ),
]


class TextArgs(BaseModel):
    """The part of `text` a caller may set."""

    model_config = ConfigDict(strict=True, extra="forbid")

    verbosity: Literal["low", "medium", "high"] | None = None


class ProviderArgs(BaseModel):
    """What may be merged into the provider's create call; anything else could reach other tenants' state."""

    model_config = ConfigDict(strict=True, extra="forbid")

    truncation: Literal["auto", "disabled"] | None = None
    text: TextArgs | None = None
    reasoning: dict[str, Any] | None = None
    service_tier: str | None = None
    include: list[str] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=2**31), Integral] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), Integral] | None = None
