"""The demo's model: the simulator's, with a word before it reaches for a tool and a sentence about what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bf_plugin.testing.provider.brain import Brain, BrainRequest
from bf_plugin.testing.provider.script import Answer, Call, Reply, reply, words


class TalkativeBrain:
    """Answers as `brain` does, but talks around its tool calls, so that a run shows text, a tool and text.

    `delay` seconds pass before each word of its own.
    """

    def __init__(self, brain: Brain, *, delay: float) -> None:
        self._brain = brain
        self._delay = delay

    def __call__(self, request: BrainRequest) -> Answer:
        """Return the next response."""
        sentences = [_sentence(output["output"]) for _, output in request.outputs]
        if told := [sentence for sentence in sentences if sentence]:
            return reply(words(" ".join(told)), delay=self._delay)
        answer = self._brain(request)
        if isinstance(answer, Reply) and answer.parts and isinstance(answer.parts[0], Call):
            return replace(answer, parts=(words("Just a moment, let me see to that. "), *answer.parts))
        return answer


def _sentence(output: Any) -> str | None:
    """Put a tool's output into words, if it is weather or a page's answer."""
    try:
        value = json.loads(output)
    except (TypeError, ValueError):
        return None
    if not isinstance(value, Mapping):
        return None
    if "temperature" in value:
        unit = str(value.get("unit", "c")).upper()
        sky = f" and {value['sky']}" if value.get("sky") else ""
        return f"It is {value['temperature']} °{unit}{sky} in {value.get('location', 'that place')}."
    if "success" in value:
        return f"{value.get('message', 'Done.')} {'✨' if value['success'] else '😕'}"
    return None
