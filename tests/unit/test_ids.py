"""Ids are capabilities: nobody may guess one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from bf_plugin.runtime.ids import is_ours, new_run_id, new_thread_id, new_tool_call_id

SAMPLES = 256


@pytest.mark.parametrize(
    ("make", "prefix"), [(new_thread_id, "thread_"), (new_run_id, "run_"), (new_tool_call_id, "tool_")]
)
def test_ids_hold_160_random_bits(make: Callable[[], str], prefix: str) -> None:
    """Six bits a character, and each of them varies: no part of an id is the same in all, or follows from the time."""
    ids = [make() for _ in range(SAMPLES)]

    assert len(set(ids)) == SAMPLES
    assert all(is_ours(one) and re.fullmatch(prefix + r"[A-Za-z0-9_-]{28}", one) for one in ids)
    columns = list(zip(*(one.removeprefix(prefix) for one in ids), strict=True))
    assert 6 * len(columns) >= 160
    # Of 64 characters at least 48 turn up in 256 draws, but for one time in more than 10^9.
    assert min(len(set(column)) for column in columns) >= 48
