"""Images and files of a message: what they are, and where they are."""

from __future__ import annotations

import mimetypes
from urllib.parse import urlsplit

from bf_plugin.items import FilePart, ImagePart

UNSEEN = "[Here was an image or a file that cannot be shown to you.]"
"""Stands for what an earlier provider of a thread was shown and this one cannot be."""


def inline(part: ImagePart | FilePart) -> tuple[str, str] | None:
    """Return media type and base64 of what is sent along, None for what is elsewhere."""
    data = part.get("data") if part["type"] == "file" else None
    link: str = data if data is not None else part.get("url", "")
    if link.startswith("data:"):
        head, _, body = link.removeprefix("data:").partition(",")
        kind, _, encoding = head.partition(";")
        return (kind.lower() or "text/plain", body) if encoding.endswith("base64") else None
    if data is None:
        return None
    return _guess(_filename(part) or "") or "application/octet-stream", data


def media_type(part: ImagePart | FilePart) -> str | None:
    """Return the media type of what is at a URL, as far as its name tells."""
    return _guess(_filename(part) or urlsplit(part.get("url", "")).path)


def _filename(part: ImagePart | FilePart) -> str | None:
    return part.get("filename") if part["type"] == "file" else None


def _guess(name: str) -> str | None:
    return mimetypes.guess_type(name)[0]
