"""`@copilotkit/aimock` from npm: made by others, for others, and compared by them with the real APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests

AIMOCK = "@copilotkit/aimock@1.43.0"


class AiMock:
    """aimock in a process of its own, told what to say through its control API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def say(self, match: Mapping[str, Any], response: Mapping[str, Any], **options: Any) -> None:
        fixture = {"match": match, "response": response, **options}
        self._control("POST", "/fixtures", {"fixtures": [fixture]})

    @property
    def journal(self) -> list[dict[str, Any]]:
        """What was asked, as the server understood it."""
        entries: list[dict[str, Any]] = self._control("GET", "/journal")
        return entries

    def reset(self) -> None:
        self._control("POST", "/reset")

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, f"{self.url}/__aimock{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json() if answer.content else None
