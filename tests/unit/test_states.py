"""The states of runs, and the outcomes that finish reasons stand for."""

from __future__ import annotations

from typing import get_args

from bf_plugin.journal.states import ENDED, ENDING, NEXT_STATES, QUEUED, STATUS_OF, UNDER_WAY, RunState
from bf_plugin.values import FinishReason, Status


def test_each_state_has_its_successors() -> None:
    """Every state is in the table, and every run comes to `ended`."""
    assert set(NEXT_STATES) == set(get_args(RunState))
    reached: set[RunState] = {QUEUED}
    while (further := reached.union(*(NEXT_STATES[state] for state in reached))) != reached:
        reached = further
    assert reached == set(get_args(RunState))
    assert [state for state, successors in NEXT_STATES.items() if not successors] == [ENDED]


def test_a_thread_is_held_until_the_end() -> None:
    """What is under way is neither queued nor ended, and it leaves only through `ending`."""
    assert set(UNDER_WAY) == set(get_args(RunState)) - {QUEUED, ENDED}
    assert [state for state in UNDER_WAY if ENDED in NEXT_STATES[state]] == [ENDING]


def test_each_finish_reason_stands_for_an_outcome() -> None:
    """No finish reason is left out, and every outcome has one."""
    assert set(STATUS_OF) == set(get_args(FinishReason))
    assert set(STATUS_OF.values()) == set(get_args(Status))
