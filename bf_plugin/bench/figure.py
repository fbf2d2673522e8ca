"""A figure, one measured value with its target; and how much effort goes into measuring it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.bench.rig import Rig


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value with its target. `raw` has what it was made of; `met` is None where there is no target."""

    name: str
    pace: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    target: float | None = None
    raw: Any = field(default=None, repr=False)

    @property
    def met(self) -> bool | None:
        """Whether the target is met."""
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured: how often, how many seconds, with how many streams; the frontier, the soak, the past."""

    repetitions: int
    streams: int = 50
    seconds: float
    frontier: Sequence[int]
    soak_seconds: float
    history: Sequence[int]


QUICK = Effort(repetitions=1, seconds=3.0, frontier=(50, 200), soak_seconds=15.0, history=(1, 1_000))
FULL = Effort(
    repetitions=5,
    seconds=10.0,
    frontier=(10, 25, 50, 100, 200, 500, 1000),
    soak_seconds=600.0,
    history=(1, 100, 100_000),
)

Measure = Callable[[Rig, Effort], Iterator[Figure]]
