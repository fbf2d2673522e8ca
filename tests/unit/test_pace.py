"""Joining grows with load: what costs is the message, not its text."""

from __future__ import annotations

import asyncio
import functools
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.pace import BEAT, LIMIT, Pace


def test_a_loop_in_time_joins_for_as_long_as_was_set() -> None:
    """A little lateness is usual where several threads share an interpreter."""
    pace = Pace(0.04)
    pace.saw(0.002)
    assert pace.grown() == 0.04


@given(st.lists(st.floats(0, 10), max_size=20))
def test_joining_grows_with_lateness_up_to_its_limit(lateness: list[float]) -> None:
    """However late the loop was, it is between what was set and the limit."""
    pace = Pace(0.04)
    for late in lateness:
        pace.saw(late)
        assert 0.04 <= pace.grown() <= LIMIT


def test_a_jam_is_forgotten() -> None:
    """It counts at once, in full, and fades step by step."""
    pace = Pace(0.04)
    pace.saw(0.01)
    after_the_jam = pace.grown()
    faded = []
    for _ in range(20):
        pace.saw(0.0)
        faded.append(pace.grown())
    assert after_the_jam > 0.1
    assert faded == sorted(faded, reverse=True)
    assert faded[-1] == 0.04


def test_an_operator_may_set_more_than_the_limit() -> None:
    """Then that is the limit."""
    pace = Pace(0.5)
    pace.saw(1.0)
    assert pace.grown() == 0.5


def test_nothing_set_is_nothing_waited() -> None:
    """Zero switches joining off, whatever the load."""
    pace = Pace(0.0)
    pace.saw(1.0)

    async def ask() -> float:
        return pace.interval()

    assert asyncio.run(ask()) == 0.0


def test_what_is_due_at_about_the_same_time_is_called_together() -> None:
    """With the first beat at or after its time: never early, hardly late, and in one turn of the loop."""
    pace = Pace(0.04)

    async def plan() -> list[tuple[str, float, float]]:
        loop = asyncio.get_running_loop()
        called: list[tuple[str, float, float]] = []
        done = asyncio.Event()

        def note(name: str, when: float) -> None:
            called.append((name, when, loop.time()))

        start = math.ceil(loop.time() / BEAT + 2) * BEAT
        for name, when in (("a", start + 0.1 * BEAT), ("b", start + 0.9 * BEAT), ("c", start + 1.5 * BEAT)):
            pace.on_beat(when, functools.partial(note, name, when))
        pace.on_beat(start + 3 * BEAT, done.set)
        await done.wait()
        return called

    for _ in range(2):  # on a loop of its own each time
        called = asyncio.run(plan())
        assert [name for name, _, _ in called] == ["a", "b", "c"]
        assert all(at >= when for _, when, at in called)


def test_a_loop_that_is_held_up_is_seen() -> None:
    """What blocks the loop makes it late, and late it is seen to be; left alone, it is watched no more."""
    pace = Pace(0.04)

    async def busy() -> float:
        pace.interval()
        grown = 0.04
        while grown == 0.04:
            time.sleep(0.07)  # noqa: ASYNC251 - that is what is tested
            await asyncio.sleep(0)
            grown = pace.grown()
        return grown

    assert asyncio.run(asyncio.wait_for(busy(), 20)) == pytest.approx(LIMIT, abs=0.09)
