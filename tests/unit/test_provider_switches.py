from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.testing.gate import Gate
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.faults import Faults
from bf_plugin.testing.provider.pages import page


def test_a_fault_wears_out() -> None:
    """A fault with `times` holds for so many requests, one without holds until cleared."""
    faults = Faults()
    twice, always = faults.set("no_usage", times=2), faults.set("no_created")
    assert [faults.take("no_usage") for _ in range(3)] == [twice, twice, None]
    assert [faults.take("no_created") for _ in range(3)] == [always] * 3
    assert (twice.used, always.used) == (2, 3)
    faults.clear("no_created")
    assert faults.take("no_created") is None


def test_a_fault_holds_where_it_was_set() -> None:
    """`on` names the operation; "*" is any."""
    faults = Faults()
    faults.set("status", on="cancel", times=1)
    assert faults.take("status", on="create") is None
    assert faults.take("status", on="cancel") is not None
    faults.set("status", on="*", status=503)
    fault = faults.take("status", on="models")
    assert fault is not None
    assert fault["status"] == 503


@pytest.mark.parametrize("arguments", [{"name": "typo"}, {"name": "status", "statu": 500}])
def test_a_misspelt_fault_is_an_error(arguments: dict[str, Any]) -> None:
    """A fault that does not exist cannot be set, so no test passes for want of it."""
    with pytest.raises(ValueError, match="fault"):
        Faults().set(**arguments)


def test_a_gate_that_nobody_reaches_times_out() -> None:
    """Waiting for a response that never comes is an error, not a hang."""
    with pytest.raises(TimeoutError, match="0 of 1"):
        Gate().wait_reached(0.01)


async def _through(gate: Gate) -> str:
    await gate.passed()
    return "through"


def test_a_gate_holds_until_released_from_another_thread() -> None:
    """Who comes to a closed gate waits; who comes to an open one does not."""
    gate, results = Gate(), []

    def run() -> None:
        results.append(asyncio.run(_through(gate)))

    thread = threading.Thread(target=run)
    thread.start()
    gate.wait_reached()
    assert results == []
    gate.release()
    thread.join(5)
    assert results == ["through"]
    assert asyncio.run(_through(gate)) == "through"
    assert gate.arrivals == 2


@given(st.integers(0, 30), st.integers(1, 10), st.sampled_from(["asc", "desc"]))
def test_pages_cover_a_list(length: int, limit: int, order: str) -> None:
    """Walking the pages gives each item once, in order."""
    items, seen, query = [{"id": str(number)} for number in range(length)], [], {"limit": str(limit), "order": order}
    while True:
        answer = page(items, query, Faults())
        seen += answer["data"]
        if not answer["has_more"]:
            break
        query = {**query, "after": answer["last_id"]}
    assert seen == (items if order == "asc" else items[::-1])


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"order": "up"}, {"after": "no"}])
def test_pages_refuse(query: dict[str, str]) -> None:
    """Bounds of `limit`, values of `order` and unknown cursors are checked."""
    with pytest.raises(ApiError):
        page([{"id": "a"}], query, Faults())
