"""What of the provider's storage a start names: files, vector stores, containers, and the fields that name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from bf_plugin.bodies.body import join
from bf_plugin.bodies.messages import InputMessage
from bf_plugin.bodies.payload import Payload
from bf_plugin.bodies.tools import CodeInterpreter, FileSearch

Kind = Literal["file", "store", "container"]
Mention = tuple[Kind, str, str]


def mentions(payload: Payload) -> dict[Kind, dict[str, str]]:
    """Return per kind the ids the payload names, each with the path of the first field that names it."""
    found: dict[Kind, dict[str, str]] = {"file": {}, "store": {}, "container": {}}
    for kind, identifier, path in _mentions(payload):
        found[kind].setdefault(identifier, path)
    return found


def search_stores(payload: Payload) -> tuple[str, ...]:
    """Return the vector stores for whatever `file_search` tools the run has."""
    resources = payload.tool_resources and payload.tool_resources.file_search
    return tuple(resources.vector_store_ids or ()) if resources else ()


def code_files(payload: Payload) -> tuple[str, ...]:
    """Return the files for whatever `code_interpreter` tools the run has."""
    resources = payload.tool_resources and payload.tool_resources.code_interpreter
    attached = (
        attachment.file_id
        for _, message in _messages(payload)
        for attachment in message.attachments or ()
        if attachment.is_for("code_interpreter")
    )
    return tuple(dict.fromkeys((*((resources and resources.file_ids) or ()), *attached)))


def _messages(payload: Payload) -> Iterator[tuple[str, InputMessage]]:
    for field, messages in (("messages", payload.messages), ("additional_messages", payload.additional_messages)):
        for index, message in enumerate(messages or ()):
            yield f"payload.{field}.{index}", message


def _mentions(payload: Payload) -> Iterator[Mention]:
    for at, message in _messages(payload):
        yield from (("file", identifier, path) for identifier, path in message.file_ids(at))
    for index, tool in enumerate(payload.tools or ()):
        if isinstance(tool, FileSearch):
            yield from _each("store", tool.vector_store_ids, join("payload.tools", index, "vector_store_ids"))
        elif isinstance(tool, CodeInterpreter):
            container, path = tool.container, join("payload.tools", index, "container")
            if isinstance(container, str):
                yield "container", container, path
            elif container is not None:
                yield from _each("file", container.file_ids, join(path, "file_ids"))
    if (resources := payload.tool_resources) is None:
        return
    at = "payload.tool_resources"
    if resources.file_search:
        yield from _each("store", resources.file_search.vector_store_ids, f"{at}.file_search.vector_store_ids")
    if resources.code_interpreter:
        yield from _each("file", resources.code_interpreter.file_ids, f"{at}.code_interpreter.file_ids")


def _each(kind: Kind, identifiers: Iterable[str] | None, at: str) -> Iterator[Mention]:
    for index, identifier in enumerate(identifiers or ()):
        yield kind, identifier, f"{at}.{index}"
