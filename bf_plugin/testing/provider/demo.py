"""The brain that answers when nothing is scripted: enough of a model to show everything the plugin can do.

| the user says | it does |
|---|---|
| something about the weather | calls `getCurrentWeather` if offered, once per city |
| what fits an offered `ui_` tool | calls it |
| "what did I say first?", "... last?" | quotes the conversation |
| "long story", "count to 500" | answers at length |
| "refuse" | refuses |
| "fail", "error please" | fails; "error please" as an `error` event |
| anything else | answers in a few paragraphs |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bf_plugin.testing.provider import phrases
from bf_plugin.testing.provider.brain import BrainRequest
from bf_plugin.testing.provider.guesses import colours, guess_arguments
from bf_plugin.testing.provider.script import (
    Call,
    Part,
    Reply,
    Text,
    call,
    error,
    failed,
    incomplete,
    refusal,
    reply,
    words,
)

_WEATHER = "getCurrentWeather"
_CITY = "San Francisco, CA"
_PLACES = re.compile(r"\b(?:in|at|for|of)\s+(.+)", re.IGNORECASE | re.DOTALL)
_NOT_PLACES = re.compile(
    r"\s*\b(right now|now|today|tonight|tomorrow|please|currently|this week|like)\b.*", re.IGNORECASE
)
_VERBS = frozenset({"ui", "set", "show", "get", "do", "the", "a", "make", "to", "on", "in", "of", "and", "for", "is"})
_SYNONYMS: Mapping[str, frozenset[str]] = {
    "theme": frozenset({"theme", "dark", "light", "mode", "darker", "lighter"}),
    "colour": frozenset({"colour", "color", "colours", "colors"}),
    "color": frozenset({"colour", "color", "colours", "colors"}),
    "confetti": frozenset({"confetti", "celebrate", "party"}),
    "highlight": frozenset({"highlight", "mark"}),
    "background": frozenset({"background", "colour", "color"}),
}


class DemoBrain:
    """Answers the last message of the user; `delay` seconds pass before each word."""

    def __init__(self, *, delay: float = 0.0) -> None:
        self._delay = delay

    def __call__(self, request: BrainRequest) -> Reply:
        """Return what to say."""
        parts = self._parts(request)
        return reply(*self._within_budget(parts, request.body.get("max_output_tokens")), delay=self._delay)

    def _parts(self, request: BrainRequest) -> Sequence[Part]:
        if outputs := request.outputs:
            results = [(call_item["name"], _output_text(output)) for call_item, output in outputs]
            return [words(phrases.told(results))]
        texts = request.user_texts
        said = texts[-1] if texts else ""
        if calls := _calls(request, said):
            return calls
        if schema := _wanted_schema(request.body):
            return [words(json.dumps(guess_arguments(schema, said), ensure_ascii=False))]
        return _spoken(said, texts)

    def _within_budget(self, parts: Sequence[Part], budget: int | None) -> Sequence[Part]:
        """Cut a text that is longer than its budget, a word being a token."""
        first = parts[0]
        if budget is None or not isinstance(first, Text) or len(first.chunks) <= budget:
            return parts
        return [Text(first.chunks[:budget]), incomplete()]


def _spoken(said: str, texts: Sequence[str]) -> Sequence[Part]:
    low = said.lower()
    if re.search(r"\berror please\b", low):
        return [words("Here comes the error you asked for: "), error("The demo was asked for an error.")]
    if re.search(r"\bfail\b", low):
        return [words("I am trying, but "), failed("The demo was asked to fail.")]
    if re.search(r"\brefuse\b", low):
        return [refusal("I'm ", "sorry, ", "but ", "I ", "can't ", "help ", "with ", "that. ", "🙈")]
    if counted := re.search(r"\bcount to (\d{1,5})", low):
        return [words(phrases.counting(min(int(counted.group(1)), 20_000)))]
    if "long story" in low:
        return [words(phrases.story())]
    if asked := re.search(r"\bwhat did i (?:just )?(?:say|write|ask)\b(.*)", low):
        return [words(_remembered(texts[:-1], first="first" in asked.group(1)))]
    return [words(phrases.answer(said, len(texts) - 1))]


def _remembered(earlier: Sequence[str], *, first: bool) -> str:
    if not earlier:
        return "This is the first thing you have said to me, so there is nothing to remember yet. 🐣"
    quoted = earlier[0 if first else -1]
    return f"{'The first' if first else 'The last'} thing you said was: “{quoted}”. 🐘"


def _calls(request: BrainRequest, said: str) -> list[Call]:
    choice = request.body.get("tool_choice")
    if choice == "none":
        return []
    offered = {tool["name"]: tool for tool in request.tools if tool["type"] == "function"}
    if isinstance(choice, Mapping) and choice.get("name") in offered:
        return _call_tool(offered[choice["name"]], said)
    wanted = [tool for tool in offered.values() if _fits(tool, said)]
    if not wanted and choice == "required":
        wanted = list(offered.values())[:1]
    calls = [made for tool in wanted for made in _call_tool(tool, said)]
    return calls[:1] if request.body.get("parallel_tool_calls") is False else calls


def _fits(tool: Mapping[str, Any], said: str) -> bool:
    name, low = tool["name"], said.lower()
    if name == _WEATHER:
        return "weather" in low
    if not name.startswith("ui_"):
        return False
    heard = set(re.findall(r"[a-z]+", low))
    keywords = set(re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", name).lower())) - _VERBS
    if any(word in heard or (word in re.sub(r"[^a-z]", "", low) and len(word) > 5) for word in keywords):
        return True
    if keywords & {"color", "colour", "background"} and colours(said):
        return True
    return any(_SYNONYMS.get(word, frozenset()) & heard for word in keywords)


def _call_tool(tool: Mapping[str, Any], said: str) -> list[Call]:
    schema = tool.get("parameters") or {}
    if tool["name"] != _WEATHER:
        return [call(tool["name"], guess_arguments(schema, said))]
    return [_call_weather(schema, said, city) for city in _cities(said)]


def _call_weather(schema: Mapping[str, Any], said: str, city: str) -> Call:
    arguments = guess_arguments(schema, said)
    if "userMessage" in arguments:
        arguments["userMessage"] = f"Looking at the sky over {city}… 🌤️"
    return call(_WEATHER, {**arguments, "location": city})


def _cities(said: str) -> list[str]:
    """Return the places named after "in", "at" or "for"; a default when there is none."""
    found = _PLACES.search(said)
    if not found:
        return [_CITY]
    listed = re.split(r"[?!;\n]|\.(?:\s|$)", found.group(1))[0]
    places = [_NOT_PLACES.sub("", place).strip(" ,.") for place in re.split(r"\band\b", listed, flags=re.IGNORECASE)]
    places = [re.sub(r"^(in|at|for)\s+", "", place, flags=re.IGNORECASE) for place in places if place]
    return places or [_CITY]


def _wanted_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    shape = (body.get("text") or {}).get("format") or {}
    return shape.get("schema") if shape.get("type") == "json_schema" else None


def _output_text(output: Mapping[str, Any]) -> str:
    value = output["output"]
    return value if isinstance(value, str) else " ".join(part.get("text", "") for part in value)
