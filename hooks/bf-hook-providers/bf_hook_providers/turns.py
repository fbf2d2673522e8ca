"""A thread as the turns of a conversation, in the order that providers insist on.

`bf_plugin` keeps a thread as a list of items. Providers want turns: each call answered, in the very next turn, exactly
once; no turn that says nothing; what the system says in a place of its own. An interrupted run leaves other things
behind, and so does a change of the provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bf_hook_providers.text import clean
from bf_plugin.items import FunctionCall, Item, Message, Part, TextPart

UNKNOWN_RESULT = (
    "The call was interrupted and its result is unknown. It may have taken effect; do not repeat it without asking."
)


@dataclass(slots=True)
class Turn:
    """What one side says. The user's begins with `outputs`: call and text, in the order of the calls before.

    `kept` is what the provider itself made of an assistant's turn and wants to see again as it was.
    """

    role: Literal["user", "assistant"]
    parts: list[Part] = field(default_factory=list)
    calls: list[FunctionCall] = field(default_factory=list)
    outputs: list[tuple[FunctionCall, str]] = field(default_factory=list)
    kept: Any = None

    @property
    def text(self) -> str:
        """The texts of the turn."""
        return "\n\n".join(part["text"] for part in self.parts if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns, the user's first, and what stands above them: instructions, system's and developer's messages."""

    system: str
    turns: Sequence[Turn]

    @property
    def size(self) -> int:
        """How many characters there are, to estimate tokens where a server does not count them."""
        calls = (len(call["arguments"]) for turn in self.turns for call in turn.calls)
        outputs = (len(text) for turn in self.turns for _, text in turn.outputs)
        return len(self.system) + sum(len(turn.text) for turn in self.turns) + sum(calls) + sum(outputs)


def conversation(
    instructions: str | None, items: Iterable[Item], kept: Iterable[Mapping[str, Any]] = ()
) -> Conversation:
    """Return the conversation that a model is to go on with; `kept` belongs to the turns with those calls."""
    system = [instructions] if instructions else []
    building = _Building()
    for item in items:
        if item["type"] == "message":
            if item["role"] in ("system", "developer"):
                system.append("\n\n".join(part["text"] for part in item["content"] if part["type"] == "text"))
            else:
                building.message(item)
        elif item["type"] == "function_call":
            building.call(item)
        else:
            building.output(item["call_id"], item["output"])
    turns = list(building.finished())
    _give_back(turns, kept)
    return Conversation(clean("\n\n".join(text for text in system if text.strip())), turns)


class _Building:
    def __init__(self) -> None:
        self._turns: list[Turn] = []
        self._open: dict[str, int] = {}
        self._texts: dict[tuple[int, str], str] = {}

    def message(self, message: Message) -> None:
        parts = [_clean(part) for part in message["content"] if part["type"] != "text" or part["text"].strip()]
        if message["role"] == "assistant":
            parts = [part for part in parts if part["type"] == "text"]
        if parts:
            self._turn("assistant" if message["role"] == "assistant" else "user").parts += parts

    def call(self, call: FunctionCall) -> None:
        if call["call_id"] in self._open:
            return
        self._turn("assistant").calls.append(call)
        self._open[call["call_id"]] = len(self._turns) - 1

    def output(self, call_id: str, text: str) -> None:
        place = self._open.pop(call_id, None)
        if place is None:
            return
        self._texts[place, call_id] = clean(text)
        if place == len(self._turns) - 1:
            self._turns.append(Turn("user"))

    def finished(self) -> Iterator[Turn]:
        """Yield the turns, each call's output in the turn behind it."""
        answers: list[tuple[FunctionCall, str]] = []
        for place, turn in enumerate(self._turns):
            if answers and turn.role == "assistant":
                yield Turn("user", outputs=answers)
                answers = []
            turn.outputs, answers = answers, []
            if turn.role == "assistant":
                known = ((call, self._texts.get((place, call["call_id"]))) for call in turn.calls)
                answers = [(call, UNKNOWN_RESULT if text is None else text) for call, text in known]
            if turn.role == "assistant" or turn.parts or turn.outputs:
                yield turn
        if answers:
            yield Turn("user", outputs=answers)

    def _turn(self, role: Literal["user", "assistant"]) -> Turn:
        if not self._turns or self._turns[-1].role != role:
            self._turns.append(Turn(role))
        return self._turns[-1]


def _give_back(turns: Sequence[Turn], kept: Iterable[Mapping[str, Any]]) -> None:
    known = {tuple(entry["calls"]): entry["turn"] for entry in kept}
    for turn in turns:
        if turn.calls:
            turn.kept = known.get(tuple(call["call_id"] for call in turn.calls))


def _clean(part: Part) -> Part:
    if part["type"] != "text":
        return part
    cleaned: TextPart = {"type": "text", "text": clean(part["text"])}
    return cleaned
