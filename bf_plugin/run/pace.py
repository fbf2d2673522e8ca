"""When joined text leaves: after a moment while the loop keeps up, later when it is late, and always on a beat.

A message costs the same however much text is in it. A process with more streams than its core can serve every 40 ms
sends fewer, larger messages: every stream is a little late, and none falls further and further behind. Text that is due
at about the same time leaves together: one timer, one turn of the loop and one commit for many runs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Protocol

LIMIT = 0.150
"""Seconds that joining grows to at most, where the operator has not set more."""

BEAT = 0.010
"""Seconds between two beats."""

_TICK = 0.05
_REST = 1.0
_USUAL = 0.005
"""Seconds of lateness that are no sign of load: other threads want the interpreter too, and turns have a length."""

_GAIN = 10.0
_SHARE = 0.2
"""Of the newest look in the average: about the last 250 ms count."""

_HAIR = 0.0005
"""Seconds before its beat from which text is due: uvloop's clock ticks in milliseconds."""


class Waiting(Protocol):
    """A lane that waits for a beat."""

    def read_on(self) -> bool:
        """Go on reading, if that was held; return whether it was."""
        ...

    def wake(self) -> None:
        """Send what is due."""
        ...


class Pace:
    """Decides over how many seconds text is joined now; `base` is what the operator set, 0: never. Used on one loop.

    `crowded` tells whether that is more than `base`: then a lane leaves text unread until it is due.
    """

    def __init__(self, base: float) -> None:
        self.crowded = False
        self._base = base
        self._limit = max(base, LIMIT)
        self._late = 0.0
        self._asked = 0.0
        self._ticking: asyncio.TimerHandle | None = None
        self._beats: dict[int, list[Waiting]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def due(self) -> float:
        """Return when text that comes from now on leaves, as the loop's time: the beat next to the interval's end.

        Measures how late the loop is from now on.
        """
        loop = self._on_this_loop()
        now = self._asked = loop.time()
        if not self._base:
            return now
        if self._ticking is None:
            self._ticking = loop.call_later(_TICK, self._tick, loop, now + _TICK)
        return round((now + self.grown()) / BEAT) * BEAT - _HAIR

    def on_beat(self, when: float, lane: Waiting) -> None:
        """Wake a lane at the first beat at or after a time of the loop, once it has read what came until then."""
        loop = self._on_this_loop()
        beat = math.ceil(when / BEAT)
        waiting = self._beats.get(beat)
        if waiting is None:
            waiting = self._beats[beat] = []
            loop.call_at(beat * BEAT, self._strike, beat)
        waiting.append(lane)

    def grown(self) -> float:
        """Return what the base has grown to."""
        return min(self._base + _GAIN * max(0.0, self._late - _USUAL), self._limit)

    def saw(self, late: float) -> None:
        """Count how late the loop was. The average decides: one late turn is no load, late turns in a row are."""
        self._late += _SHARE * (late - self._late)
        self.crowded = self._base > 0 and self.grown() > self._base

    def _strike(self, beat: int) -> None:
        lanes = self._beats.pop(beat, ())
        if [lane for lane in lanes if lane.read_on()]:
            # What there is to read is read by the next turn, on asyncio's loop by the one after.
            soon = asyncio.get_running_loop().call_soon
            soon(soon, _wake, lanes)
        else:
            _wake(lanes)

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


def _wake(lanes: Iterable[Waiting]) -> None:
    for lane in lanes:
        lane.wake()
