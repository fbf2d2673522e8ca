"""Turns: nobody waits for more than one thing of each other owner at a time."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.runtime.turns import Turns


def test_nothing_to_take() -> None:
    """An empty queue says so."""
    with pytest.raises(LookupError):
        Turns[int]().take()


def test_one_with_little_does_not_wait_behind_one_with_much() -> None:
    """Its turn comes after one thing of the other's."""
    turns = Turns[str]()
    for thing in ("a1", "a2", "a3"):
        turns.put("a", thing)
    turns.put("b", "b1")
    assert [turns.take() for _ in range(4)] == ["a1", "b1", "a2", "a3"]


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.none()), max_size=60))
def test_everything_comes_out_once_in_turn(steps: list[str | None]) -> None:
    """Whatever is put in and taken out: in order for each owner, and no owner twice while another waits longer."""
    turns = Turns[tuple[str, int]]()
    waiting: dict[str, list[int]] = defaultdict(list)
    passed: dict[str, int] = {}
    for number, owner in enumerate(steps):
        if owner is not None:
            turns.put(owner, (owner, number))
            waiting[owner].append(number)
            passed.setdefault(owner, 0)
        elif any(waiting.values()):
            taken, first = turns.take()
            assert first == waiting[taken].pop(0)
            others = [other for other in waiting if waiting[other] and other != taken]
            passed = {other: passed[other] + 1 for other in others} | ({taken: 0} if waiting[taken] else {})
            assert all(count <= len(set("abcd")) for count in passed.values())
        assert len(turns) == sum(map(len, waiting.values()))
