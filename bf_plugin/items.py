"""What a conversation is made of, in a form no provider owns.

The journal keeps a thread as a list of these items, engines translate them for their provider, and `before_run` may
edit them. They are plain JSON, so that hooks can build them by hand.
"""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict  # typing's own TypedDict: pydantic refuses it before 3.12

Role = Literal["user", "assistant", "system", "developer"]


class TextPart(TypedDict):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(TypedDict):
    """An image, by URL (`https:` or `data:`) or by the provider's file id."""

    type: Literal["image"]
    url: NotRequired[str]
    file_id: NotRequired[str]
    detail: NotRequired[str]


class FilePart(TypedDict):
    """A file, by the provider's file id, by URL or inline as base64 in `data` with a `filename`."""

    type: Literal["file"]
    file_id: NotRequired[str]
    url: NotRequired[str]
    data: NotRequired[str]
    filename: NotRequired[str]


Part = TextPart | ImagePart | FilePart


class Message(TypedDict):
    """One message of a conversation."""

    type: Literal["message"]
    role: Role
    content: list[Part]


class FunctionCall(TypedDict):
    """The model asked for a function; `arguments` is the JSON text it wrote."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class FunctionOutput(TypedDict):
    """What a function answered; `output` is text, by convention JSON."""

    type: Literal["function_output"]
    call_id: str
    output: str


Item = Message | FunctionCall | FunctionOutput


class FunctionTool(TypedDict):
    """A function the model may call; `parameters` is a JSON schema of type object."""

    type: Literal["function"]
    name: str
    description: NotRequired[str]
    parameters: dict[str, Any]
    strict: NotRequired[bool]


class FileSearchTool(TypedDict):
    """Search in the provider's vector stores."""

    type: Literal["file_search"]
    vector_store_ids: list[str]
    max_num_results: NotRequired[int]
    ranking_options: NotRequired[dict[str, Any]]
    filters: NotRequired[dict[str, Any]]


class CodeInterpreterTool(TypedDict):
    """Python at the provider, with files; `container` names an existing container instead of a fresh one."""

    type: Literal["code_interpreter"]
    file_ids: list[str]
    container: NotRequired[str]


Tool = FunctionTool | FileSearchTool | CodeInterpreterTool


def text_message(role: Role, text: str) -> Message:
    """Return a message that holds one text."""
    return {"type": "message", "role": role, "content": [{"type": "text", "text": text}]}
