"""The body of `POST /stream/create/assistants` as one frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.bodies.body import bodies_in, check, join
from bf_plugin.bodies.payload import ACTION_NAME, Payload, PollingStart, Start, StreamingStart
from bf_plugin.bodies.tools import neutral_tools
from bf_plugin.bodies.uitools import is_ui
from bf_plugin.errors import invalid
from bf_plugin.items import Message, Tool

DEFAULT_PROVIDER = "openai"

_ACTION_NAME = re.compile(ACTION_NAME)
_MAX_WARNINGS = 20
_WHY_IGNORED = {
    "payload.truncation_strategy": "providerArgs.truncation is what there is today",
    "payload.max_prompt_tokens": "there is no equivalent today",
}
_OPTIONS = ("temperature", "top_p", "max_completion_tokens", "reasoning_effort", "parallel_tool_calls")
_STORED = {"file_id": "file", "file_ids": "file", "vector_store_ids": "store", "container": "container"}
"""What at the provider a field names, wherever it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """A start as the caller asked for it; `merge_assistant` adds what the operator configured.

    `tools` is None if the caller gave none, and () if it wants none. `search_stores` and `code_files` go to whatever
    `file_search` and `code_interpreter` tools the run gets. `file_ids`, `vector_store_ids` and `container_ids` map each
    id that the caller named to the field that named it first.
    """

    api_key: str | None = field(repr=False)
    channels: tuple[str, ...] = field(repr=False)
    action_name: str | None
    provider: str
    provider_key: str | None = field(repr=False)
    stream: bool
    messages: tuple[Message, ...] = field(repr=False)
    thread_id: str | None = field(repr=False)
    model: str | None
    instructions: str | None = field(repr=False)
    additional_instructions: str | None = field(repr=False)
    assistant_id: str | None
    tools: tuple[Tool, ...] | None = field(repr=False)
    search_stores: tuple[str, ...] = field(repr=False)
    code_files: tuple[str, ...] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    file_ids: Mapping[str, str] = field(repr=False)
    vector_store_ids: Mapping[str, str] = field(repr=False)
    container_ids: Mapping[str, str] = field(repr=False)
    warnings: tuple[str, ...]


def parse_start(body: Mapping[str, Any]) -> StartRequest:
    """Return the request in `body`. Raises RequestError 400 that names each bad field."""
    payload = body.get("payload")
    streams = isinstance(payload, Mapping) and payload.get("stream") is True
    return _request(check(StreamingStart if streams else PollingStart, body), streams)


def valid_action_name(body: Mapping[str, Any]) -> str | None:
    """Return the `actionName` of a body that may be bad in other places: its error names the action too."""
    name = body.get("actionName")
    return name if isinstance(name, str) and _ACTION_NAME.fullmatch(name) and name != "function" else None


def _request(start: Start, streams: bool) -> StartRequest:
    payload = start.payload
    if start.action_name == "function":
        raise invalid("actionName", "must not be function: pages evaluate that key")
    mentioned = _mentions(payload)
    return StartRequest(
        api_key=start.api_key or None,
        channels=tuple(dict.fromkeys(start.channels or ())),
        action_name=start.action_name,
        provider=payload.provider or DEFAULT_PROVIDER,
        provider_key=payload.api_key or None,
        stream=streams,
        messages=tuple(message.item() for message in (*payload.messages, *(payload.additional_messages or ()))),
        thread_id=payload.thread_id or payload.thread_id_alias or payload.assistant_thread_id or None,
        model=payload.model,
        instructions=payload.instructions,
        additional_instructions=payload.additional_instructions,
        assistant_id=payload.assistant_id,
        tools=_tools(payload, streams),
        search_stores=_search_stores(payload),
        code_files=_code_files(payload),
        options=_options(start),
        metadata=payload.metadata or {},
        file_ids=mentioned["file"],
        vector_store_ids=mentioned["store"],
        container_ids=mentioned["container"],
        warnings=_warnings(start),
    )


def _mentions(payload: Payload) -> dict[str, dict[str, str]]:
    """Return by kind the ids of stored things, each with the path of the first field that names it."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in _STORED.values()}
    for at, body in bodies_in(payload, "payload"):
        for name in type(body).model_fields:
            value = getattr(body, name) if name in _STORED else None
            for index, identifier in enumerate(value) if isinstance(value, list) else (("", value),):
                if isinstance(identifier, str):
                    found[_STORED[name]].setdefault(identifier, join(at, name, index))
    return found


def _search_stores(payload: Payload) -> tuple[str, ...]:
    """Return the vector stores for whatever `file_search` tools the run has."""
    resources = payload.tool_resources and payload.tool_resources.file_search
    return tuple(resources.vector_store_ids or ()) if resources else ()


def _code_files(payload: Payload) -> tuple[str, ...]:
    """Return the files for whatever `code_interpreter` tools the run has."""
    resources = payload.tool_resources and payload.tool_resources.code_interpreter
    attached = (
        attachment.file_id
        for message in (*payload.messages, *(payload.additional_messages or ()))
        for attachment in message.attachments or ()
        if attachment.is_for("code_interpreter")
    )
    return tuple(dict.fromkeys((*((resources and resources.file_ids) or ()), *attached)))


def _tools(payload: Payload, streams: bool) -> tuple[Tool, ...] | None:
    if payload.tools is None:
        return None
    tools = neutral_tools(payload.tools, "payload.tools")
    if not streams and (index := ui_tool(tools)) is not None:
        raise invalid(f"payload.tools.{index}", "is a ui_ tool, which needs a page: payload.stream must be true")
    return tools


def ui_tool(tools: Sequence[Tool]) -> int | None:
    """Return the index of the first tool that runs in a page, None if there is none."""
    return next((i for i, tool in enumerate(tools) if tool["type"] == "function" and is_ui(tool["name"])), None)


def _options(start: Start) -> dict[str, Any]:
    """Return the generation parameters that were given, in the Assistants' form."""
    payload = start.payload
    options = payload.given(*_OPTIONS)
    choice = payload.tool_choice or payload.tool_choice_alias
    if choice is not None:
        options["tool_choice"] = choice if isinstance(choice, str) else choice.value()
    if payload.response_format is not None and not isinstance(payload.response_format, str):
        options["response_format"] = payload.response_format.value()
    args: dict[str, Any] = {}
    for given in (start.provider_args, payload.provider_args):
        args |= given.model_dump(exclude_none=True) if given else {}
    return {**options, "provider_args": args} if args else options


def _warnings(start: Start) -> tuple[str, ...]:
    """Name the keys that have no effect: we drop nothing in silence."""
    unknown = [join(at, key) for at, body in bodies_in(start, "") for key in body.model_extra or ()]
    ignored = [f"{key} is ignored: {_WHY_IGNORED.get(key, 'it is not known')}" for key in unknown]
    if len(ignored) > _MAX_WARNINGS:
        ignored[_MAX_WARNINGS:] = [f"{len(ignored) - _MAX_WARNINGS} more keys are ignored"]
    return tuple(ignored)
