"""What of the provider's storage a start names: files, vector stores, containers, and the fields that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from bf_plugin.bodies.body import bodies_in, join
from bf_plugin.bodies.payload import Payload

Kind = Literal["file", "store", "container"]

_KINDS: Mapping[str, Kind] = {
    "file_id": "file",
    "file_ids": "file",
    "vector_store_ids": "store",
    "container": "container",
}
"""The fields, wherever they are, whose strings are ids at the provider."""


def mentions(payload: Payload) -> dict[Kind, dict[str, str]]:
    """Return per kind the ids the payload names, each with the path of the first field that names it."""
    found: dict[Kind, dict[str, str]] = {"file": {}, "store": {}, "container": {}}
    for at, body in bodies_in(payload, "payload"):
        for name in _KINDS.keys() & type(body).model_fields.keys():
            value = getattr(body, name)
            for index, identifier in enumerate(value) if isinstance(value, list) else (("", value),):
                if isinstance(identifier, str):
                    found[_KINDS[name]].setdefault(identifier, join(at, name, index))
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
        for message in (*payload.messages, *(payload.additional_messages or ()))
        for attachment in message.attachments or ()
        if attachment.is_for("code_interpreter")
    )
    return tuple(dict.fromkeys((*((resources and resources.file_ids) or ()), *attached)))
