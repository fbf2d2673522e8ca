"""The messages of a start, in the forms of the Assistants and the Responses API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from bf_plugin.bodies.body import KIND, SHAPE, Body, join
from bf_plugin.items import FilePart, ImagePart, Message, Part, Role, TextPart

Id = Annotated[str, Field(min_length=1, max_length=512)]
Detail = Literal["auto", "low", "high", "original"]
ImageLink = Annotated[str, Field(pattern=r"^(https?://|data:)[^\x00-\x20]+$")]
FileLink = Annotated[str, Field(pattern=r"^https?://[^\x00-\x20]+$")]


class TextContent(Body):
    """Text."""

    type: Literal["text", "input_text"]
    text: str

    def part(self) -> TextPart:
        """Return the neutral part."""
        return {"type": "text", "text": self.text}


class ImageUrl(Body):
    """Where an image is."""

    url: ImageLink
    detail: Detail | None = None


class ImageUrlContent(Body):
    """An image by URL, Assistants form."""

    type: Literal["image_url"]
    image_url: ImageUrl

    def part(self) -> ImagePart:
        """Return the neutral part."""
        return _image("url", self.image_url.url, self.image_url.detail)


class ImageFile(Body):
    """An image at the provider."""

    file_id: Id
    detail: Detail | None = None


class ImageFileContent(Body):
    """An image by file id, Assistants form."""

    type: Literal["image_file"]
    image_file: ImageFile

    def part(self) -> ImagePart:
        """Return the neutral part."""
        return _image("file_id", self.image_file.file_id, self.image_file.detail)


class InputImageByUrl(Body):
    """An image by URL, Responses form."""

    type: Literal["input_image"]
    image_url: ImageLink
    file_id: None = None
    detail: Detail | None = None

    def part(self) -> ImagePart:
        """Return the neutral part."""
        return _image("url", self.image_url, self.detail)


class InputImageById(Body):
    """An image by file id, Responses form."""

    type: Literal["input_image"]
    file_id: Id
    image_url: None = None
    detail: Detail | None = None

    def part(self) -> ImagePart:
        """Return the neutral part."""
        return _image("file_id", self.file_id, self.detail)


class InputFileByUrl(Body):
    """A file by URL."""

    type: Literal["input_file"]
    file_url: FileLink
    file_data: None = None
    file_id: None = None
    filename: str | None = None

    def part(self) -> FilePart:
        """Return the neutral part."""
        return _file("url", self.file_url, self.filename)


class InputFileByData(Body):
    """A file inline, base64."""

    type: Literal["input_file"]
    file_data: Annotated[str, Field(min_length=1)]
    file_url: None = None
    file_id: None = None
    filename: str | None = None

    def part(self) -> FilePart:
        """Return the neutral part."""
        return _file("data", self.file_data, self.filename)


class InputFileById(Body):
    """A file at the provider."""

    type: Literal["input_file"]
    file_id: Id
    file_url: None = None
    file_data: None = None
    filename: str | None = None

    def part(self) -> FilePart:
        """Return the neutral part."""
        return _file("file_id", self.file_id, self.filename)


def _part_kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "input_image":
        return "<input_image url>" if value.get("image_url") is not None else "<input_image id>"
    if kind == "input_file":
        given = next((key for key in ("file_url", "file_data") if value.get(key) is not None), "file_id")
        return f"<input_file {given}>"
    return {"input_text": "<text>"}.get(kind, f"<{kind}>") if isinstance(kind, str) else None


Content = Annotated[
    Annotated[TextContent, Tag("<text>")]
    | Annotated[ImageUrlContent, Tag("<image_url>")]
    | Annotated[ImageFileContent, Tag("<image_file>")]
    | Annotated[InputImageByUrl, Tag("<input_image url>")]
    | Annotated[InputImageById, Tag("<input_image id>")]
    | Annotated[InputFileByUrl, Tag("<input_file file_url>")]
    | Annotated[InputFileByData, Tag("<input_file file_data>")]
    | Annotated[InputFileById, Tag("<input_file file_id>")],
    Discriminator(
        _part_kind,
        custom_error_type=KIND,
        custom_error_message="must be text, image_url, image_file, input_text, input_image or input_file",
    ),
]


def _content_shape(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<parts>" if isinstance(value, list) else None


class AttachmentTool(Body):
    """Which tool an attachment is for."""

    type: Literal["file_search", "code_interpreter"]


class Attachment(Body):
    """A file of a message, Assistants form; for `file_search` (also if nothing is said) the model reads it."""

    file_id: Id
    tools: list[AttachmentTool] | None = None

    def is_for(self, kind: str) -> bool:
        """Tell whether the attachment names this tool."""
        return any(tool.type == kind for tool in self.tools or ())


class InputMessage(Body):
    """One message."""

    role: Role
    content: Annotated[
        Annotated[str, Field(min_length=1), Tag("<string>")]
        | Annotated[list[Content], Field(min_length=1), Tag("<parts>")],
        Discriminator(
            _content_shape,
            custom_error_type=SHAPE,
            custom_error_message="must be a string or an array of parts",
        ),
    ]
    attachments: list[Attachment] | None = None

    def item(self) -> Message:
        """Return the neutral message."""
        content: list[Part]
        if isinstance(self.content, str):
            content = [{"type": "text", "text": self.content}]
        else:
            content = [part.part() for part in self.content]
        for attachment in self.attachments or ():
            if not attachment.tools or attachment.is_for("file_search"):
                content.append({"type": "file", "file_id": attachment.file_id})
        return {"type": "message", "role": self.role, "content": content}

    def file_ids(self, at: str) -> Iterator[tuple[str, str]]:
        """Yield each file id of the message with the path of the field that names it."""
        for index, part in enumerate(self.content if isinstance(self.content, list) else ()):
            if isinstance(part, ImageFileContent):
                yield part.image_file.file_id, join(at, "content", index, "image_file", "file_id")
            elif isinstance(part, (InputImageById, InputFileById)):
                yield part.file_id, join(at, "content", index, "file_id")
        for index, attachment in enumerate(self.attachments or ()):
            yield attachment.file_id, join(at, "attachments", index, "file_id")


def _image(key: Literal["url", "file_id"], value: str, detail: str | None) -> ImagePart:
    part: ImagePart = {"type": "image", key: value}  # type: ignore[misc]  # mypy: only literal keys
    return {**part, "detail": detail} if detail else part


def _file(key: Literal["url", "file_id", "data"], value: str, filename: str | None) -> FilePart:
    part: FilePart = {"type": "file", key: value}  # type: ignore[misc]  # mypy: only literal keys
    return {**part, "filename": filename} if filename else part
