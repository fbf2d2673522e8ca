"""Limits by themselves: who is counted, when, how much, when it begins anew. The clock is turned by hand."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone
from typing import Any

import pytest
from bf_hook_guard.budgets import bounds
from bf_hook_guard.limits import Limits
from bf_hook_guard.settings import load
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin import RunRejected, Usage
from bf_plugin.errors import JournalError
from bf_plugin.testing import MemoryStore, new_draft, new_outcome, new_run


def moment(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


NOON = moment("2026-11-26T12:00:00")


class Clock:
    """Says what it was set to."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(now=clock)


def limits(store: Any, clock: Clock, *given: dict[str, Any], **section: Any) -> Limits:
    settings = load({"limits": list(given), **section})
    return Limits(settings.limits, settings.prices, store, now=clock)


def refusal(one: Limits, **draft: Any) -> RunRejected:
    with pytest.raises(RunRejected) as caught:
        one.admit(new_draft(**draft))
    return caught.value


def used(tokens: int, *, run: str = "run_1", **more: Any) -> dict[str, Any]:
    usage = Usage(prompt_tokens=tokens, total_tokens=tokens, **more)
    return {"run": new_run(id=run), "outcome": new_outcome(usage=usage)}


def test_runs_of_an_app_in_a_period(store: MemoryStore, clock: Clock) -> None:
    """The first too many is refused until the next period begins; other apps count for themselves."""
    one = limits(store, clock, {"period": "hour", "runs": 2})
    clock.now += 600.5
    one.admit(new_draft())
    one.admit(new_draft())

    error = refusal(one)
    assert (error.code, error.retry_after) == (429, 3000)
    assert error.message == "this app has used its 2 runs of this hour; the next begins at 2026-11-26T13:00:00Z"
    one.admit(new_draft(app="another"))

    clock.now = NOON + 3599.9
    assert refusal(one).retry_after == 1
    clock.now = NOON + 3600
    one.admit(new_draft())


def test_a_refused_start_is_not_counted(store: MemoryStore, clock: Clock) -> None:
    """Neither by the limit that refuses it nor by another."""
    one = limits(store, clock, {"period": "minute", "runs": 1}, {"period": "day", "runs": 3})
    one.admit(new_draft())
    for _ in range(5):
        assert "this minute" in refusal(one).message
    for minute in (1, 2):
        clock.now = NOON + 60 * minute
        one.admit(new_draft())
    clock.now = NOON + 180
    assert "3 runs of this day" in refusal(one).message


def test_tokens_are_counted_when_runs_end(store: MemoryStore, clock: Clock) -> None:
    """What is told twice, as after a crash, counts once; the run that goes over the limit goes through."""
    one = limits(store, clock, {"period": "day", "tokens": 100})
    for run, tokens in (("a", 60), ("a", 60), ("b", 50)):
        one.admit(new_draft())
        one.count(**used(tokens, run=run))
    assert "its 100 tokens of this day" in refusal(one).message
    clock.now += 12 * 3600
    one.admit(new_draft())


def test_cost_is_what_the_model_costs(store: MemoryStore, clock: Clock) -> None:
    """Prices are those of a million tokens, of prompts and answers apart; others than listed have those of "*"."""
    prices = {"big": {"prompt": 2.0, "completion": 10.0}, "*": {"prompt": 1.0, "completion": 1.0}}
    one = limits(store, clock, {"period": "month", "cost": 1.0}, prices=prices)
    usage = Usage(prompt_tokens=100_000, completion_tokens=70_000, total_tokens=170_000)  # 0.20 + 0.70
    one.count(new_run(id="a", model="big"), new_outcome(usage=usage))
    one.admit(new_draft())
    one.count(new_run(id="b", model="small"), new_outcome(usage=usage))  # 0.10 + 0.07
    error = refusal(one)
    assert (
        error.message == "this app has used its budget of 1.00 of this month; the next begins at 2026-12-01T00:00:00Z"
    )
    assert error.retry_after == 4.5 * 24 * 3600


def test_a_model_without_a_price_is_refused_where_cost_is_limited(store: MemoryStore, clock: Clock) -> None:
    """Else its runs would be free of limits; apps without such a limit may use it."""
    prices = {"big": {"prompt": 2.0, "completion": 10.0}}
    one = limits(store, clock, {"period": "day", "cost": 1.0, "apps": ["portal"]}, prices=prices)
    error = refusal(one, app="portal", model="new")
    assert (error.code, "the model new has no price" in error.message) == (403, True)
    one.admit(new_draft(app="portal", model="big"))
    one.admit(new_draft(app="intranet", model="new"))


def test_estimates_are_told(store: MemoryStore, clock: Clock) -> None:
    """A stopped run's use may be estimated: whoever is refused for it can see that."""
    one = limits(store, clock, {"period": "day", "tokens": 10})
    one.count(**used(4, run="a"))
    one.count(**used(8, run="b", estimated=True))
    assert "10 tokens of this day (8 are estimated)" in refusal(one).message


def test_the_least_of_several_limits_counts(store: MemoryStore, clock: Clock) -> None:
    """A limit for all and a lower one for an app."""
    one = limits(store, clock, {"period": "day", "runs": 3}, {"period": "day", "runs": 1, "apps": ["trial"]})
    one.admit(new_draft(app="trial"))
    assert "its 1 run" in refusal(one, app="trial").message
    for _ in range(3):
        one.admit(new_draft(app="portal"))
    assert refusal(one, app="portal").code == 429


def test_zero_is_a_limit_too(store: MemoryStore, clock: Clock) -> None:
    """Nothing at all, for an app that is switched off."""
    assert refusal(limits(store, clock, {"period": "day", "runs": 0})).code == 429


def test_at_the_same_moment_only_as_many_start_as_may(store: MemoryStore, clock: Clock) -> None:
    """Of two processes and many threads; none is lost, and none too many."""
    both = [limits(store, clock, {"period": "day", "runs": 10}, {"period": "week", "runs": 50}) for _ in range(2)]
    refused: list[int] = []
    barrier = threading.Barrier(16)

    def start(one: Limits) -> None:
        barrier.wait()
        for _ in range(5):
            try:
                one.admit(new_draft())
            except RunRejected as error:
                refused.append(error.code)

    threads = [threading.Thread(target=start, args=(both[number % 2],)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused.count(429) == len(refused)
    assert len(refused) >= 80 - 10
    begin, _ = bounds("day", clock.now)
    assert store.get(f"runs day {begin} {new_draft().app}") == 80 - len(refused)


def test_who_comes_second_at_the_same_moment_takes_back_what_it_counted(clock: Clock) -> None:
    """Both have seen that there is room for one; the counters tell them apart."""

    class Stale(MemoryStore):
        def get(self, key: str, default: Any = None) -> Any:
            return default

    store = Stale(now=clock)
    one = limits(store, clock, {"period": "minute", "runs": 5}, {"period": "day", "runs": 1})
    one.admit(new_draft())
    assert "1 run of this day" in refusal(one).message
    for period in ("minute", "day"):
        begin, _ = bounds(period, clock.now)
        assert MemoryStore.get(store, f"runs {period} {begin} {new_draft().app}") == 1


class BrokenStore(MemoryStore):
    """A store whose database is gone."""

    def get(self, key: str, default: Any = None) -> Any:
        raise JournalError("the disk is full: make room")

    increment = put = get  # type: ignore[assignment]


def test_without_the_store_nothing_starts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A limit that cannot be read is taken for reached: 503, and the log says why."""
    error = refusal(limits(BrokenStore(), clock, {"period": "day", "runs": 10}))
    assert (error.code, error.retry_after) == (503, 5)
    assert "disk" not in error.message
    assert "its limits cannot be read: the disk is full: make room" in caplog.text


def test_without_the_store_the_log_has_what_is_not_counted(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The run is over already: nothing is raised, and an operator can add it."""
    with caplog.at_level(logging.ERROR):
        limits(BrokenStore(), clock, {"period": "day", "tokens": 10}).count(**used(7, run="run_7"))
    assert "run run_7 of app" in caplog.text
    assert "7 tokens (the disk is full: make room)" in caplog.text


def test_without_limits_the_store_is_not_asked(clock: Clock) -> None:
    """Apps that have none do not depend on it."""
    one = limits(BrokenStore(), clock, {"period": "day", "tokens": 10, "apps": ["trial"]})
    one.admit(new_draft(app="portal"))
    one.count(new_run(app="portal"), new_outcome())


# periods -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("minute", "2028-02-29T23:59:00", "2028-03-01T00:00:00"),
        ("hour", "2028-02-29T23:00:00", "2028-03-01T00:00:00"),
        ("day", "2028-02-29T00:00:00", "2028-03-01T00:00:00"),
        ("week", "2028-02-28T00:00:00", "2028-03-06T00:00:00"),
        ("month", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
    ],
)
def test_periods_are_those_of_the_calendar(period: Any, begin: str, end: str) -> None:
    """In UTC; weeks begin on Monday."""
    assert bounds(period, moment("2028-02-29T23:59:59")) == (moment(begin), moment(end))


PERIODS = st.sampled_from(["minute", "hour", "day", "week", "month"])
TIMES = st.integers(0, 1000 * int(moment("2100-01-01T00:00:00"))).map(lambda milliseconds: milliseconds / 1000)


@given(period=PERIODS, now=TIMES)
def test_periods_leave_no_gap(period: Any, now: float) -> None:
    """Each moment is in one, and where it ends the next begins."""
    begin, end = bounds(period, now)
    assert begin <= now < end
    assert bounds(period, end)[0] == end
    assert bounds(period, begin) == bounds(period, end - 0.001) == (begin, end)
