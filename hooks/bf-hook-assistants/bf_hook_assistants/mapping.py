"""From a step to what the server wants: messages, tools and options. The options have the Assistants' names already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_hook_assistants.text import clean
from bf_plugin import ProviderError
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FunctionCall, Item, Message, Part, Tool

Json = dict[str, Any]

UNSEEN = "[Here was an image or a file that cannot be shown to you.]"

_OPTIONS = ("temperature", "top_p", "response_format", "reasoning_effort", "parallel_tool_calls")


@dataclass(frozen=True, slots=True)
class Said:
    """Items as a thread of the server can hold them: `messages`, and `system`, which goes with each run."""

    messages: list[Json] = field(default_factory=list)
    system: list[str] = field(default_factory=list)


def said_of(items: Sequence[Item], calls: Iterable[FunctionCall], tools: Sequence[Tool]) -> Said:
    """Return items as messages; `calls` are those that were made before them.

    No message can hold a call, so what a call has answered is told in words. Raises ProviderError for an image or a
    file among what was said last that the server has no way to see; of an earlier one is told that it was there.
    """
    known = {call["call_id"]: call for call in calls}
    last = max((place for place, item in enumerate(items) if _is_answer(item)), default=-1)
    said = Said()
    for place, item in enumerate(items):
        if item["type"] == "function_call":
            known[item["call_id"]] = item
        elif item["type"] == "function_output":
            if (call := known.get(item["call_id"])) is not None:
                said.messages.append({"role": "assistant", "content": _record(call, item["output"])})
        elif item["role"] in ("system", "developer"):
            said.system.append(_text_of(item))
        elif (message := _message(item, tools, strict=place > last)) is not None:
            said.messages.append(message)
    return said


def outputs_for(calls: Sequence[FunctionCall], items: Sequence[Item]) -> list[dict[str, str]]:
    """Return the outputs of all these calls, nothing unless the items are these outputs and no more."""
    outputs = {item["call_id"]: clean(item["output"]) for item in items if item["type"] == "function_output"}
    if not calls or len(outputs) != len(items) or set(outputs) != {call["call_id"] for call in calls}:
        return []
    return [{"tool_call_id": call["call_id"], "output": outputs[call["call_id"]]} for call in calls]


def run_body(request: StepRequest, system: Sequence[str]) -> Json:
    """Return what a run is asked with beside its assistant; what the caller did not say is the assistant's own."""
    options = request.options
    if unknown := sorted(options.get("provider_args") or ()):
        names = ", ".join(f"payload.providerArgs.{name}" for name in unknown)
        raise ProviderError(f"the Assistants API has no equivalent of {names}", status=400)
    body: Json = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
    if request.instructions:
        body["instructions"] = clean(request.instructions)
    if system:
        body["additional_instructions"] = "\n\n".join(system)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if (choice := options.get("tool_choice")) is not None:
        body["tool_choice"] = choice if request.number == 1 or choice == "none" else "auto"
    if request.max_tokens is not None:
        body["max_completion_tokens"] = request.max_tokens
    if request.metadata:
        body["metadata"] = dict(request.metadata)
    return body


def resources_of(tools: Sequence[Tool]) -> Json:
    """Return the `tool_resources` of a thread whose runs have these tools."""
    resources: Json = {}
    for tool in tools:
        if tool["type"] == "file_search" and tool["vector_store_ids"]:
            resources["file_search"] = {"vector_store_ids": list(tool["vector_store_ids"])}
        elif tool["type"] == "code_interpreter" and tool["file_ids"]:
            resources["code_interpreter"] = {"file_ids": list(tool["file_ids"])}
    return resources


def _tool(tool: Tool) -> Json:
    if tool["type"] == "function":
        function: Json = {"name": tool["name"], "parameters": tool["parameters"]}
        function.update({name: tool[name] for name in ("description", "strict") if tool.get(name)})
        return {"type": "function", "function": function}
    if tool["type"] == "code_interpreter":
        if "container" in tool:
            raise ProviderError("payload.tools: the Assistants API knows no container, use file_ids", status=400)
        return {"type": "code_interpreter"}
    if "filters" in tool:
        raise ProviderError("payload.tools: the Assistants API has no filters for file_search", status=400)
    search = {name: tool[name] for name in ("max_num_results", "ranking_options") if name in tool}
    return {"type": "file_search", **({"file_search": search} if search else {})}


def _is_answer(item: Item) -> bool:
    return item["type"] != "message" or item["role"] == "assistant"


def _record(call: Mapping[str, Any], output: str) -> str:
    return clean(f"[I called {call['name']} with {call['arguments'] or '{}'}. The answer: {output}]")


def _text_of(message: Message) -> str:
    return clean("\n\n".join(part["text"] for part in message["content"] if part["type"] == "text"))


def _message(message: Message, tools: Sequence[Tool], *, strict: bool) -> Json | None:
    """Return a message in the server's form, None for one without content, which it refuses."""
    if all(part["type"] == "text" for part in message["content"]) or message["role"] == "assistant":
        text = _text_of(message)
        return {"role": message["role"], "content": text} if text.strip() else None
    files = [part["file_id"] for part in message["content"] if part["type"] == "file" and part.get("file_id")]
    content = [
        _part(part, strict) for part in message["content"] if not (part["type"] == "file" and part.get("file_id"))
    ]
    sent: Json = {"role": message["role"], "content": [part for part in content if part.get("text") != ""]}
    if files:
        sent["content"] = sent["content"] or "[See the attached files.]"
        sent["attachments"] = [{"file_id": file, "tools": _readers(tools)} for file in files]
    return sent if sent["content"] else None


def _part(part: Part, strict: bool) -> Json:
    if part["type"] == "text":
        return {"type": "text", "text": clean(part["text"])}
    if part["type"] == "image":
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        if part.get("file_id"):
            return {"type": "image_file", "image_file": {"file_id": part["file_id"], **detail}}
        if not part.get("url", "").startswith("data:"):
            return {"type": "image_url", "image_url": {"url": part.get("url", ""), **detail}}
    if strict:
        raise ProviderError(
            f"payload.messages: the Assistants API takes no {part['type']} that is sent along or at a URL of its own: "
            "upload it to the provider and send its file_id, or the https URL of an image",
            status=400,
        )
    return {"type": "text", "text": UNSEEN}


def _readers(tools: Sequence[Tool]) -> list[Json]:
    """Return the tools that are to read an attached file: those of the run that can, else the search in files."""
    kinds = [tool["type"] for tool in tools if tool["type"] != "function"] or ["file_search"]
    return [{"type": kind} for kind in dict.fromkeys(kinds)]
