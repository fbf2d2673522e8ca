"""From the result of a tool to the text that the model reads."""

from __future__ import annotations

import json
from typing import Any

from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)


def text_of(result: CallToolResult, limit: int) -> str:
    """Return the whole of a result as text, cut at `limit` characters, which the model is told.

    Texts stand as they are, images and the like are described: what a tool answers is text. Structured content is
    added where the texts do not say it already.
    """
    parts = [_described(block) for block in result.content]
    structured = result.structured_content
    if structured is not None and not _says(result.content, structured):
        parts.append(json.dumps(structured, ensure_ascii=False))
    text = "\n".join(part for part in parts if part)
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: the result has {len(text)} characters, this is the beginning]"


def _says(content: list[ContentBlock], structured: Any) -> bool:
    """Tell whether the texts are the structured content once more, as servers send it for clients that read texts only.

    The SDK's servers wrap what is no object: `{"result": 3}` for the text `3`, a list for several texts.
    """
    said = [block.text for block in content if isinstance(block, TextContent)]
    if not said or len(said) != len(content):
        return False
    values = [_parsed(text) for text in said]
    whole = structured["result"] if isinstance(structured, dict) and structured.keys() == {"result"} else structured
    return any(same in (structured, whole) for same in (values, values[0] if len(values) == 1 else values, said[0]))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _described(block: ContentBlock) -> str:
    match block:
        case TextContent(text=text):
            return text
        case ImageContent(mime_type=kind, data=data):
            return f"[an image, {kind}, {_size(data)}, which cannot be shown here]"
        case AudioContent(mime_type=kind, data=data):
            return f"[a recording, {kind}, {_size(data)}, which cannot be played here]"
        case ResourceLink():
            details = [detail for detail in (block.title, block.description, block.mime_type) if detail]
            return f"[a resource, {block.name}, at {block.uri}]{''.join(f' {detail}' for detail in details)}"
        case EmbeddedResource(resource=resource):
            return _content_of(resource)


def _content_of(resource: TextResourceContents | BlobResourceContents) -> str:
    if isinstance(resource, TextResourceContents):
        return f"[a resource, at {resource.uri}]\n{resource.text}"
    kind, size = resource.mime_type or "of unknown type", _size(resource.blob)
    return f"[a resource, {kind}, {size}, at {resource.uri}, which cannot be shown here]"


def _size(base64: str) -> str:
    """Return the size of what base64 text stands for."""
    count = len(base64.rstrip("=")) * 3 // 4
    return f"{count} bytes" if count < 1024 else f"{count / 1024:.0f} KB"
