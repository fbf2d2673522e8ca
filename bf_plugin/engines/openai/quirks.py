"""What servers refuse, learned from their answers and remembered per base URL for the life of the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from bf_plugin.engines.openai.problems import Problem

Background = Literal["auto", "on", "off"]

CONVERSATIONS = "conversations"

_REFUSALS = (400, 422, 501)
_NAMES = {
    "stream_options": re.compile(r"stream_options|include_obfuscation"),
    "background": re.compile(r"\bbackground\b"),
}
_STREAMING = frozenset({"background", "stream", "stream_options", "stream_options.include_obfuscation"})


class Quirks:
    """Decides which optional parameters go along. `background` "on" insists, "off" never asks for it."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._refused: dict[str | None, set[str]] = {}

    def refused(self, base_url: str | None, name: str) -> bool:
        """Tell whether this server was seen to refuse `name`."""
        return name in self._refused.get(base_url, ())

    def remember(self, base_url: str | None, name: str) -> None:
        """Do without `name` at this server from now on."""
        self._refused.setdefault(base_url, set()).add(name)

    def parameters(self, base_url: str | None, *, stored: bool) -> dict[str, Any]:
        """Return the parameters that decide how a response is run. A response that is not stored has no background."""
        parameters: dict[str, Any] = {"stream": True, "store": stored}
        if not self.refused(base_url, "stream_options"):
            parameters["stream_options"] = {"include_obfuscation": False}
        if stored and self._background != "off" and not self.refused(base_url, "background"):
            parameters["background"] = True
        return parameters

    def learn(self, base_url: str | None, body: Mapping[str, Any], problem: Problem) -> bool:
        """Tell whether the request is worth repeating without a parameter that this answer is about."""
        if problem.status not in _REFUSALS or (problem.param and problem.param not in _STREAMING):
            return False
        about = f"{problem.param or ''} {problem.message}"
        for name, pattern in _NAMES.items():
            if name in body and pattern.search(about) and not (name == "background" and self._background == "on"):
                self.remember(base_url, name)
                return True
        return False
