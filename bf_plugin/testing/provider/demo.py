"""The brain of the demo: pleasant answers without a script."""

from __future__ import annotations

from bf_plugin.testing.provider.brain import BrainRequest
from bf_plugin.testing.provider.script import Reply, reply, words


class DemoBrain:
    """Answers the last message of the user."""

    def __init__(self, *, delay: float = 0.0) -> None:
        self._delay = delay

    def __call__(self, request: BrainRequest) -> Reply:
        """Return an answer."""
        said = (request.user_texts or [""])[-1]
        return reply(words(f"You wrote “{said}”. 👋 This is the provider simulator."), delay=self._delay)
