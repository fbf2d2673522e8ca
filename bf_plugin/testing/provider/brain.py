"""The port between the API and what answers: scripts, demo or a test's own function."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bf_plugin.testing.provider.items import user_text
from bf_plugin.testing.provider.script import Answer, Reply, as_reply
from bf_plugin.testing.provider.state import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainRequest:
    """What a model sees: the body as it was sent, the items before this request and the new ones."""

    body: Mapping[str, Any]
    history: Sequence[JsonObject]
    input: Sequence[JsonObject]

    @property
    def context(self) -> list[JsonObject]:
        """Everything, oldest first."""
        return [*self.history, *self.input]

    @property
    def user_texts(self) -> list[str]:
        """The text of each message of the user, oldest first."""
        return user_text(self.context)

    @property
    def tools(self) -> Sequence[JsonObject]:
        """The tools offered."""
        return self.body.get("tools") or ()

    @property
    def outputs(self) -> list[tuple[JsonObject, JsonObject]]:
        """Calls and their outputs since the last message of the user."""
        calls = {item["call_id"]: item for item in self.context if item["type"] == "function_call"}
        found: list[tuple[JsonObject, JsonObject]] = []
        for item in self.context:
            if item["type"] == "message" and item["role"] == "user":
                found = []
            elif item["type"] == "function_call_output":
                found.append((calls[item["call_id"]], item))
        return found


Brain = Callable[[BrainRequest], Answer]
"""Answers a request; called on the simulator's loop, so it must not block."""


class Script:
    """Scripted answers first, in order of arrival; then the brain."""

    def __init__(self, brain: Brain) -> None:
        self.brain = brain
        self._replies: deque[Reply] = deque()

    def add(self, answers: Sequence[Answer]) -> None:
        """Queue one response per answer."""
        self._replies.extend(as_reply(answer) for answer in answers)

    def answer(self, request: BrainRequest) -> Reply:
        """Return what is said to this request."""
        try:
            return self._replies.popleft()
        except IndexError:
            return as_reply(self.brain(request))

    @property
    def unused(self) -> Sequence[Reply]:
        """Scripted answers nobody asked for yet."""
        return tuple(self._replies)

    def clear(self) -> None:
        """Forget the scripted answers."""
        self._replies.clear()
