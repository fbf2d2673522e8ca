"""What of a run a provider cannot do: told before the run exists, as a refusal or as a warning, never in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bf_hook_providers.provider import Provider
from bf_plugin import RunDraft
from bf_plugin.errors import invalid

_HOSTED = "is a tool that runs at OpenAI: provider {} has functions only"


def review(provider: Provider, run: RunDraft) -> Iterator[str]:
    """Yield warnings. Raises RequestError that names the field."""
    _check_tools(provider, run)
    _check_parts(provider, run)
    yield from provider.review(run)


def ignored(fields: Iterable[str], provider: str) -> Iterator[str]:
    """Yield the warning for each field that has no equivalent."""
    for field in fields:
        yield f"{field} is ignored: provider {provider} has no equivalent"


def arguments(run: RunDraft, *known: str) -> Iterator[str]:
    """Yield the path of each of the `providerArgs` that is not `known`: they are those of OpenAI."""
    yield from (f"payload.providerArgs.{name}" for name in run.options.get("provider_args") or () if name not in known)


def details(run: RunDraft) -> Iterator[str]:
    """Yield the path of images' `detail` if any is set."""
    if any(part["type"] == "image" and part.get("detail") for message in run.messages for part in message["content"]):
        yield "payload.messages: the detail of images"


def schema_of(run: RunDraft) -> Mapping[str, Any]:
    """Return the JSON schema the answer is to have, {} without one."""
    schema = (run.options.get("response_format") or {}).get("json_schema")
    return schema if isinstance(schema, Mapping) else {}


def _check_tools(provider: Provider, run: RunDraft) -> None:
    for tool in run.tools:
        if tool["type"] != "function":
            raise invalid("payload.tools", f"has {tool['type']}, which {_HOSTED.format(provider.name)}")
    choice = run.options.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") != "function":
        raise invalid("payload.tool_choice", f"names {choice.get('type')}, which {_HOSTED.format(provider.name)}")


def _check_parts(provider: Provider, run: RunDraft) -> None:
    for message in run.messages:
        for part in message["content"]:
            if part["type"] == "text":
                continue
            if message["role"] != "user":
                raise invalid("payload.messages", f"has {_named(part['type'])} in a message of role {message['role']}")
            if (problem := provider.part_problem(part)) is not None:
                raise invalid("payload.messages", f"has {_named(part['type'])} that {problem}")


def _named(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"
