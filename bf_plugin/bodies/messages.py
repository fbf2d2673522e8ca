"""The messages of a start, in the forms of the Assistants and the Responses API."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import Discriminator, Field, Tag

from bf_plugin.bodies.body import KIND, SHAPE, Body
from bf_plugin.items import Message, Part, Role

Id = Annotated[str, Field(min_length=1, max_length=512)]
Detail = Literal["auto", "low", "high", "original"]
ImageLink = Annotated[str, Field(pattern=r"^(https?://|data:)[^\x00-\x20]+$")]
FileLink = Annotated[str, Field(pattern=r"^https?://[^\x00-\x20]+$")]


class TextContent(Body):
    """Text."""

    type: Literal["text", "input_text"]
    text: str

    def part(self) -> Part:
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

    def part(self) -> Part:
        """Return the neutral part."""
        return _part("image", self.image_url)


class ImageFile(Body):
    """An image at the provider."""

    file_id: Id
    detail: Detail | None = None


class ImageFileContent(Body):
    """An image by file id, Assistants form."""

    type: Literal["image_file"]
    image_file: ImageFile

    def part(self) -> Part:
        """Return the neutral part."""
        return _part("image", self.image_file)


class _InputImage(Body):
    type: Literal["input_image"]

    def part(self) -> Part:
        """Return the neutral part."""
        return _part("image", self)


class InputImageByUrl(_InputImage):
    """An image by URL, Responses form."""

    url: ImageLink = Field(alias="image_url")
    file_id: None = None
    detail: Detail | None = None


class InputImageById(_InputImage):
    """An image by file id, Responses form."""

    file_id: Id
    url: None = Field(None, alias="image_url")
    detail: Detail | None = None


class _InputFile(Body):
    type: Literal["input_file"]

    def part(self) -> Part:
        """Return the neutral part."""
        return _part("file", self)


class InputFileByUrl(_InputFile):
    """A file by URL."""

    url: FileLink = Field(alias="file_url")
    data: None = Field(None, alias="file_data")
    file_id: None = None
    filename: str | None = None


class InputFileByData(_InputFile):
    """A file inline, base64."""

    data: Annotated[str, Field(min_length=1)] = Field(alias="file_data")
    url: None = Field(None, alias="file_url")
    file_id: None = None
    filename: str | None = None


class InputFileById(_InputFile):
    """A file at the provider."""

    file_id: Id
    url: None = Field(None, alias="file_url")
    data: None = Field(None, alias="file_data")
    filename: str | None = None


def _part(kind: str, named: Body) -> Part:
    """Return the neutral part: its keys are the names of the fields, which callers know by their aliases."""
    fields = {name: getattr(named, name) for name in type(named).model_fields if name != "type"}
    return cast("Part", {"type": kind, **{name: value for name, value in fields.items() if value}})


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
    """A file of a message, Assistants form. The model reads it for `file_search`, which is the default."""

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
