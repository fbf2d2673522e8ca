"""What an app adds to a start: the operator's assistants and defaults, and what the operator's provider key allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bf_plugin.bodies.start import StartRequest, ui_tool
from bf_plugin.bodies.tools import parse_tools
from bf_plugin.errors import ConfigurationError, RequestError, invalid
from bf_plugin.gateway.apps import App
from bf_plugin.items import Tool
from bf_plugin.settings import AssistantSettings, Settings

_NO_ASSISTANT = AssistantSettings()


def merge_assistant(request: StartRequest, app: App) -> StartRequest:
    """Return the request with model, instructions and tools settled: the caller's, the assistant's or the app's.

    Its `tools` are never None and hold the resources the caller gave for them. Its `model` may be None: a `before_run`
    hook can still choose one. Raises RequestError: 404 for an unknown assistant, 400 for one that needs a page when the
    caller polls.
    """
    assistant = _assistant(request, app)
    tools = request.tools
    if tools is None:
        tools = parse_tools(assistant.tools)
        if not request.stream and ui_tool(tools) is not None:
            raise invalid("payload.assistant_id", "has ui_ tools, which need a page: payload.stream must be true")
    tools, warnings = _with_resources(request, tools)
    return replace(
        request,
        model=request.model or assistant.model or app.model,
        instructions=_instructions(request, assistant, app),
        tools=tools,
        warnings=(*request.warnings, *warnings),
    )


def check_operator_resources(request: StartRequest, app: App) -> None:
    """Refuse what the app may not use with the operator's provider key. A caller's own key opens only what is its own.

    Raises RequestError 403 that names the field.
    """
    if request.provider_key is not None:
        return
    for named, allowed in (
        (request.file_ids, app.allowed_files),
        (request.vector_store_ids, app.allowed_vector_stores),
        (request.container_ids, app.allowed_containers),
    ):
        for identifier, field in named.items():
            if identifier not in allowed:
                raise invalid(field, "is not allowed for this app", 403)


def check_assistants(settings: Settings) -> None:
    """Raise ConfigurationError that names an assistant whose tools no start could use."""
    for name, app in settings.apps.items():
        for assistant_id, assistant in app.assistants.items():
            try:
                parse_tools(assistant.tools)
            except RequestError as error:
                raise ConfigurationError(f"apps.{name}.assistants.{assistant_id}: {error}") from None


def _assistant(request: StartRequest, app: App) -> AssistantSettings:
    if request.assistant_id is None:
        return _NO_ASSISTANT
    if request.assistant_id not in app.assistants:
        raise invalid("payload.assistant_id", "is not known", 404)
    return app.assistants[request.assistant_id]


def _instructions(request: StartRequest, assistant: AssistantSettings, app: App) -> str | None:
    chosen = (request.instructions, assistant.instructions, app.instructions)
    base = next((text for text in chosen if text is not None), None)
    return "\n\n".join(text for text in (base, request.additional_instructions) if text) or None


def _with_resources(request: StartRequest, tools: Iterable[Tool]) -> tuple[tuple[Tool, ...], list[str]]:
    """Give stores and files to the tools they are for. Leave out a search without a store: providers refuse it."""
    complete: list[Tool] = []
    warnings = []
    for tool in tools:
        if tool["type"] == "file_search":
            tool = {**tool, "vector_store_ids": _merged(tool["vector_store_ids"], request.search_stores)}
            if not tool["vector_store_ids"]:
                warnings.append("the tool file_search is ignored: it has no vector_store_ids")
                continue
        elif tool["type"] == "code_interpreter":
            tool = {**tool, "file_ids": _merged(tool["file_ids"], request.code_files)}
        complete.append(tool)
    kinds = {tool["type"] for tool in complete}
    for kind, given in (("file_search", request.search_stores), ("code_interpreter", request.code_files)):
        if given and kind not in kinds:
            warnings.append(f"the resources for {kind} are ignored: the run has no such tool")
    return tuple(complete), warnings


def _merged(named: Iterable[str], more: Iterable[str]) -> list[str]:
    return list(dict.fromkeys((*named, *more)))
