"""Joining grows with load: what costs is the message, not its text."""

from __future__ import annotations

import asyncio
import math
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.run.pace import BEAT, LIMIT, Pace
from loops import LOOPS, NewLoop


class Lane:
    """Notes when it was woken; `held` is read from, once it may be read on."""

    def __init__(self, name: str, woken: list[tuple[str, float]], held: socket.socket | None = None) -> None:
        self.name = name
        self.woken = woken
        self.held = held
        self.read = b""
        self.known = b""

    def read_on(self) -> bool:
        if self.held is None:
            return False
        loop, held = asyncio.get_running_loop(), self.held
        loop.add_reader(held, lambda: setattr(self, "read", self.read + held.recv(100)))
        return True

    def wake(self) -> None:
        self.known = self.read
        self.woken.append((self.name, asyncio.get_running_loop().time()))


def test_a_loop_in_time_joins_for_as_long_as_was_set() -> None:
    """A little lateness is usual where several threads share an interpreter; one late turn is no load."""
    pace = Pace(0.04)
    for late in (0.002, 0.0, 0.02, 0.0, 0.001):
        pace.saw(late)
        assert pace.grown() == 0.04
        assert not pace.crowded


@given(st.lists(st.floats(0, 10), max_size=20))
def test_joining_grows_with_lateness_up_to_its_limit(lateness: list[float]) -> None:
    """However late the loop was, it is between what was set and the limit."""
    pace = Pace(0.04)
    for late in lateness:
        pace.saw(late)
        assert 0.04 <= pace.grown() <= LIMIT
        assert pace.crowded == (pace.grown() > 0.04)


def test_a_jam_is_forgotten() -> None:
    """Late turns in a row count, and fade step by step."""
    pace = Pace(0.04)
    for _ in range(20):
        pace.saw(0.02)
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
        return pace.due() - asyncio.get_running_loop().time()

    assert asyncio.run(ask()) <= 0.0
    assert not pace.crowded


@given(st.floats(0.02, 1.0))
def test_text_is_due_with_the_beat_next_to_the_end_of_the_interval(base: float) -> None:
    """So that on average it waits for as long as was set."""
    pace = Pace(base)

    async def ask() -> tuple[float, float]:
        return asyncio.get_running_loop().time(), pace.due()

    now, due = asyncio.run(ask())
    assert abs(due - (now + base)) <= BEAT / 2 + 0.002
    assert math.ceil(due / BEAT) * BEAT - due == pytest.approx(0.0005, abs=1e-6)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_what_is_due_at_about_the_same_time_is_woken_together(
    new_loop: NewLoop,
) -> None:
    """With the first beat at or after its time: never early, and in one turn of the loop."""
    pace = Pace(0.04)

    async def plan() -> None:
        loop = asyncio.get_running_loop()
        woken: list[tuple[str, float]] = []
        start = math.ceil(loop.time() / BEAT + 2) * BEAT
        times = {"a": start + 0.1 * BEAT, "b": start + 0.9 * BEAT, "c": start + 1.5 * BEAT}
        for name, when in times.items():
            pace.on_beat(when, Lane(name, woken))
        while len(woken) < 3:
            await asyncio.sleep(BEAT)
        assert [name for name, _ in woken] == ["a", "b", "c"]
        assert all(at >= times[name] - 0.001 for name, at in woken)

    for _ in range(2):  # on a loop of its own each time
        loop = new_loop()
        loop.run_until_complete(plan())
        loop.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_lane_is_woken_behind_what_there_is_to_read(new_loop: NewLoop) -> None:
    """Reading goes on with the beat; what came meanwhile leaves with what waited."""
    pace = Pace(0.04)

    async def plan() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            woken: list[tuple[str, float]] = []
            held, other = Lane("held", woken, ours), Lane("other", woken)
            loop = asyncio.get_running_loop()
            pace.on_beat(loop.time() + BEAT, other)
            pace.on_beat(loop.time() + BEAT, held)
            theirs.send(b"meanwhile")
            while len(woken) < 2:
                await asyncio.sleep(0.001)
            loop.remove_reader(ours)
            assert held.known == b"meanwhile"
            assert [name for name, _ in woken] == ["other", "held"]

    for _ in range(20):
        loop = new_loop()
        loop.run_until_complete(plan())
        loop.close()


def test_a_loop_that_is_held_up_is_seen() -> None:
    """What blocks the loop makes it late, and late it is seen to be."""
    pace = Pace(0.04)

    async def busy() -> float:
        pace.due()
        while pace.grown() < LIMIT:
            time.sleep(0.07)  # noqa: ASYNC251 - that is what is tested
            await asyncio.sleep(0)
            pace.due()
        return pace.grown()

    assert asyncio.run(asyncio.wait_for(busy(), 20)) == LIMIT
