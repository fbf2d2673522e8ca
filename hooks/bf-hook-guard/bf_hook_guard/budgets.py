"""An app's budget: how much of something it may use in one period of the clock, and under which key it is counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

Period = Literal["minute", "hour", "day", "week", "month"]
What = Literal["runs", "tokens", "cost"]

MILLION = 1_000_000
"""Cost is counted in millionths, rounded up for each run: whole numbers add up exactly."""

_SLACK = 3600
"""Seconds for which a counter outlives its period, for hosts whose clocks are late."""


@dataclass(frozen=True, slots=True)
class Budget:
    """`most` runs, tokens or millionths of the currency, from `begin` to `end` (POSIX seconds); the period is UTC's."""

    app: str
    what: What
    period: Period
    most: int
    begin: int
    end: int

    @classmethod
    def at(cls, now: float, *, app: str, what: What, period: Period, most: int) -> Budget:
        """Return the budget of the period that `now` is in."""
        begin, end = bounds(period, now)
        return cls(app, what, period, most, begin, end)

    @property
    def key(self) -> str:
        """Where it is counted; each period has a counter of its own."""
        return f"{self.what} {self.period} {self.begin} {self.app}"

    @property
    def estimated_key(self) -> str:
        """Where it is counted what of it was estimated."""
        return f"estimated {self.key}"

    @property
    def unit(self) -> int:
        """How many of what is counted make one of what people speak of."""
        return MILLION if self.what == "cost" else 1

    def __str__(self) -> str:
        if self.what == "cost":
            return f"budget of {self.most / self.unit:,.2f}"
        return f"{self.most:,} {self.what.rstrip('s') if self.most == 1 else self.what}"

    def left(self, now: float) -> float:
        """Return for how many seconds it goes on, one at least."""
        return max(self.end - now, 1.0)

    def ttl(self, now: float) -> float:
        """Return for how many seconds its counter is needed."""
        return self.left(now) + _SLACK


def bounds(period: Period, now: float) -> tuple[int, int]:
    """Return begin and end of the period that `now` is in; weeks begin on Monday."""
    begin = datetime.fromtimestamp(now, timezone.utc).replace(second=0, microsecond=0)
    if period == "minute":
        end = begin + timedelta(minutes=1)
    elif period == "hour":
        begin = begin.replace(minute=0)
        end = begin + timedelta(hours=1)
    else:
        begin = begin.replace(hour=0, minute=0)
        begin -= timedelta(days={"day": 0, "week": begin.weekday(), "month": begin.day - 1}[period])
        end = begin + timedelta(days={"day": 1, "week": 7, "month": 31}[period])
        end = end.replace(day=1) if period == "month" else end
    return int(begin.timestamp()), int(end.timestamp())
