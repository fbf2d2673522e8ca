"""What the model of the simulated server says, and what goes wrong: the pieces of scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Call:
    """A call of a function."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class End:
    """How a run ends, if not completed."""

    status: str
    reason: str | None = None
    code: str = "server_error"
    message: str = "Sorry, something went wrong."


@dataclass(frozen=True)
class Cut:
    """The connection breaks; the run goes on."""


@dataclass(frozen=True)
class Annotated:
    """Text with an annotation."""

    text: str
    annotation: dict[str, Any]


@dataclass(frozen=True)
class NextMessage:
    """The model begins another message."""


@dataclass(frozen=True)
class ErrorEvent:
    """An `error` event, after which the server says nothing more."""

    message: str


class Refused(Exception):
    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
