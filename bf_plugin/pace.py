"""When joined text leaves: after a moment while the loop keeps up, later the further it falls behind, and on a beat.

What costs is the message, not the text in it. So a process that carries more streams than its core can serve one
message every 40 ms sends fewer, larger ones, and every stream stays a little behind instead of all falling ever further
behind. And what is due at about the same time leaves together: one timer, one turn of the loop and one commit for many.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

LIMIT = 0.150
"""Seconds that joining grows to at most, where the operator has not set more."""

BEAT = 0.010
"""Seconds between two beats."""

_TICK = 0.05
_REST = 1.0
_USUAL = 0.003
"""Seconds of lateness that are no sign of load: other threads want the interpreter too."""

_GAIN = 10.0
_DECAY = 0.8


class Pace:
    """Says over how many seconds text is joined now; `base` is what the operator set, 0: never. Used on one loop."""

    def __init__(self, base: float) -> None:
        self._base = base
        self._limit = max(base, LIMIT)
        self._late = 0.0
        self._asked = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._beats: dict[int, list[Callable[[], object]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def interval(self) -> float:
        """Return the seconds to join text over, and see that the loop's lateness is watched meanwhile."""
        if not self._base:
            return 0.0
        loop = self._on_this_loop()
        self._asked = loop.time()
        if self._ticking is None:
            self._ticking = loop.call_later(_TICK, self._tick, loop, self._asked + _TICK)
        return self.grown()

    def on_beat(self, when: float, call: Callable[[], object]) -> None:
        """Have something called with the first beat at or after a time of the loop's."""
        loop = self._on_this_loop()
        beat = math.ceil(when / BEAT)
        waiting = self._beats.get(beat)
        if waiting is None:
            waiting = self._beats[beat] = []
            loop.call_at(beat * BEAT, self._strike, beat)
        waiting.append(call)

    def grown(self) -> float:
        """Return what the base has grown to."""
        return min(self._base + _GAIN * max(0.0, self._late - _USUAL), self._limit)

    def saw(self, late: float) -> None:
        """Take note of how late the loop was: a jam counts at once, and is forgotten step by step."""
        self._late = max(late, _DECAY * self._late)

    def _strike(self, beat: int) -> None:
        for call in self._beats.pop(beat, ()):
            call()

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.saw(now - due)
        resting = now - self._asked > _REST
        self._ticking = None if resting else loop.call_later(_TICK, self._tick, loop, now + _TICK)

    def _on_this_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the first, or what was planned on another loop has ended with it
            self._loop, self._beats, self._ticking = loop, {}, None
        return loop
