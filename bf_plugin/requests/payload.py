"""The body of a start as pydantic models: one for streaming, one for polling, which differ in what they require."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from bf_plugin.requests.body import KIND, SHAPE, Body, Integral
from bf_plugin.requests.messages import Id, InputMessage
from bf_plugin.requests.tools import AnyTools, Name

ACTION_NAME = r"^[A-Za-z_$][A-Za-z0-9_$.-]{0,127}$"

Text = Annotated[str, Field(min_length=1)]
ProviderKey = Annotated[str, Field(pattern=r"^[!-~]*$")]
"""Printable ASCII: a key travels in a header."""

_Channel = Annotated[str, Field(min_length=1, max_length=200)]
_CHANNELS = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 200},
        {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 200},
            "minItems": 1,
            "maxItems": 20,
        },
    ]
}
Channels = Annotated[
    list[_Channel],
    Field(min_length=1, max_length=20),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(_CHANNELS),
]
ActionName = Annotated[str, Field(pattern=ACTION_NAME)]


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


class BuiltInChoice(Body):
    """One of the provider's own tools."""

    type: Literal["file_search", "code_interpreter"]

    def value(self) -> dict[str, Any]:
        """Return the choice in the Assistants' form."""
        return {"type": self.type}


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


class PlainFormat(Body):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]

    def value(self) -> dict[str, Any]:
        """Return the format in the Assistants' form."""
        return {"type": self.type}


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
        known = {"name", "schema_", "description", "strict"}
        schema = self.json_schema.model_dump(include=known, exclude_none=True, by_alias=True)
        return {"type": "json_schema", "json_schema": schema}


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


class SearchResources(Body):
    """Where `file_search` tools look."""

    vector_store_ids: list[Id] | None = None


class CodeResources(Body):
    """What `code_interpreter` tools are given."""

    file_ids: list[Id] | None = None


class ToolResources(Body):
    """Resources of tools that name none themselves."""

    file_search: SearchResources | None = None
    code_interpreter: CodeResources | None = None


class Payload(Body):
    """What to ask the assistant."""

    provider: Text | None = None
    api_key: ProviderKey | None = Field(None, alias="apiKey")
    stream: bool | None = None
    messages: Annotated[list[InputMessage], Field(min_length=1, max_length=100)]
    additional_messages: Annotated[list[InputMessage], Field(max_length=100)] | None = None
    thread_id: str | None = None
    thread_id_alias: str | None = Field(None, alias="threadId")
    assistant_thread_id: str | None = Field(None, alias="assistantThreadId")
    assistant_id: Text | None = None
    model: Text | None = None
    instructions: str | None = None
    additional_instructions: str | None = None
    tools: AnyTools | None = None
    tool_resources: ToolResources | None = None
    tool_choice: ToolChoice | None = None
    tool_choice_alias: ToolChoice | None = Field(None, alias="toolChoice")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    response_format: ResponseFormat | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31), Integral] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    parallel_tool_calls: bool | None = None
    provider_args: ProviderArgs | None = Field(None, alias="providerArgs")


class PollingPayload(Payload):
    """A payload whose answer comes in the HTTP response; its tools must not need a page (`ui_`)."""

    stream: Annotated[bool, WithJsonSchema({"const": False})] | None = None


class StreamingPayload(Payload):
    """A payload whose answer comes in events."""

    stream: Annotated[bool, WithJsonSchema({"const": True})]


class PollingStart(Body):
    """Start a run and wait for its end."""

    api_key: str | None = Field(None, alias="apiKey")
    channels: Channels | None = None
    action_name: ActionName | None = Field(None, alias="actionName")
    payload: PollingPayload
    provider_args: ProviderArgs | None = Field(None, alias="providerArgs")


class StreamingStart(Body):
    """Start a run whose events go to `channels`."""

    api_key: str | None = Field(None, alias="apiKey")
    channels: Channels
    action_name: ActionName = Field(alias="actionName")
    payload: StreamingPayload
    provider_args: ProviderArgs | None = Field(None, alias="providerArgs")
