"""The demo's model: the simulator's, which says a word before it reaches for a tool, as models do."""

from __future__ import annotations

from dataclasses import replace

from bf_plugin.testing.provider.brain import BrainRequest
from bf_plugin.testing.provider.demo import DemoBrain
from bf_plugin.testing.provider.script import Call, Reply, words


class TalkativeBrain:
    """Puts a few words before the tool calls of `brain`'s answers, so that a run shows text, a tool and text."""

    def __init__(self, brain: DemoBrain) -> None:
        self._brain = brain

    def __call__(self, request: BrainRequest) -> Reply:
        """Return the next response."""
        answer = self._brain(request)
        if not answer.parts or not isinstance(answer.parts[0], Call):
            return answer
        return replace(answer, parts=(words("Just a moment, let me see to that. "), *answer.parts))
