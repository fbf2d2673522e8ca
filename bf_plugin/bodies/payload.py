"""The body of a start as pydantic models: one for streaming, one for polling, which differ in what they require."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from bf_plugin.bodies.body import Body, Integral
from bf_plugin.bodies.messages import Id, InputMessage
from bf_plugin.bodies.options import ProviderArgs, ResponseFormat, ToolChoice
from bf_plugin.bodies.tools import AnyTools

ACTION_NAME = r"^[A-Za-z_$][A-Za-z0-9_$.-]{0,127}$"

Text = Annotated[str, Field(min_length=1)]
ProviderKey = Annotated[str, Field(pattern=r"^[!-~]*$")]
"""Printable ASCII: a key travels in a header."""

_Channel = Annotated[str, Field(min_length=1, max_length=200)]
_CHANNEL = {"type": "string", "minLength": 1, "maxLength": 200}
_CHANNELS = {"anyOf": [_CHANNEL, {"type": "array", "items": _CHANNEL, "minItems": 1, "maxItems": 20}]}
Channels = Annotated[
    list[_Channel],
    Field(min_length=1, max_length=20),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(_CHANNELS),
]
ActionName = Annotated[str, Field(pattern=ACTION_NAME)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
            "maxProperties": 16,
        }
    ),
]


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
    metadata: Metadata | None = None
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


class Start(Body):
    """Start a run."""

    api_key: str | None = Field(None, alias="apiKey")
    channels: Channels | None = None
    action_name: ActionName | None = Field(None, alias="actionName")
    payload: Payload
    provider_args: ProviderArgs | None = Field(None, alias="providerArgs")


class PollingStart(Start):
    """Start a run and wait for its end."""

    payload: PollingPayload


class StreamingStart(Start):
    """Start a run whose events go to `channels`."""

    channels: Channels
    action_name: ActionName = Field(alias="actionName")
    payload: StreamingPayload
