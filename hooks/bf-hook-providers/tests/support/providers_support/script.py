"""What a server says: the pieces of scripts, and answers byte by byte."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    id: str
    name: str
    arguments: dict[str, Any]


class Pause:
    """Where a server stops until a test lets it go on, or the client goes away."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()
        self.left = threading.Event()

    def wait_reached(self) -> None:
        assert self.reached.wait(10), "nobody came here"

    def wait_left(self) -> None:
        assert self.left.wait(10), "the client is still there"

    def release(self) -> None:
        self.over.set()


@dataclass
class Answer:
    """An answer to a request: bytes, and pauses between them. `complete` is false for one that breaks off."""

    pieces: list[bytes | Pause]
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    complete: bool = True


def sse(data: Any, event: str | None = None) -> bytes:
    head = f"event: {event}\n" if event else ""
    text = json.dumps(data, ensure_ascii=False)
    if re.search("[\ud800-\udfff]", text):
        text = json.dumps(data)
    return f"{head}data: {text}\n\n".encode()
