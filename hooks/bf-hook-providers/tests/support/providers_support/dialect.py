"""A provider's protocol, as the tests need it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from providers_support.script import Answer, Call, Pause


class Dialect:
    """A provider's protocol: how it says what a script says, and where a request has what."""

    name: str
    model: str
    path: str

    def section(self, url: str, **more: Any) -> dict[str, Any]:
        """The settings of the engine that point it to a server."""
        return {"base_url": url, **more}

    def answer(self, *script: str | Call | Pause, finish: str | None = None) -> Answer:
        """A whole answer."""
        return Answer(list(self.stream(script, finish or self.finish_of(script))))

    def begun(self, text: str, *more: bytes, complete: bool = True) -> Answer:
        """An answer up to some text, and whatever bytes follow it."""
        end = Pause()
        pieces = list(self.stream((text, end), ""))
        return Answer([*pieces[: pieces.index(end)], *more], complete=complete)

    def finish_of(self, script: Sequence[str | Call | Pause]) -> str:
        raise NotImplementedError

    def stream(self, script: Sequence[str | Call | Pause], finish: str) -> Iterator[bytes | Pause]:
        raise NotImplementedError

    def error(self, status: int, message: str) -> Any:
        """The body of a refusal."""
        raise NotImplementedError

    def error_event(self, message: str) -> bytes:
        """An error in mid-stream."""
        raise NotImplementedError

    def key_of(self, request: Request) -> str | None:
        raise NotImplementedError

    def said(self, body: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The conversation in a request: (who, what), calls as `name(arguments)`, results as `-> output`."""
        raise NotImplementedError

    def turns(self, body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
        """The turns of a request: (whose, what), calls as `call ID`, results as `answer ID`, all else as it is."""
        raise NotImplementedError

    def refusal(self, status: int, message: str, **headers: str) -> Answer:
        body = json.dumps(self.error(status, message)).encode()
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        return Answer([body], status, sent)


@dataclass(frozen=True)
class Request:
    """What a client asked; header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Any
