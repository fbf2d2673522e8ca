"""Who counts as gone: silence that was listened to, nothing else."""

from __future__ import annotations

import pytest

from bf_plugin.dispatch.postgres import Census
from bf_plugin.errors import ConfigurationError
from bf_plugin.journal.owners import OwnerRow
from bf_plugin.settings import load_settings


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def watch(census: Census, clock: Clock, seconds: float, beat_at: float) -> set[str]:
    """Look every second at a process whose heartbeat does not change, and return who is gone in the end."""
    gone: set[str] = set()
    for _ in range(int(seconds)):
        clock.now += 1
        gone = census.gone([OwnerRow(id="a", beat_at=beat_at, left=False)])
    return gone


def test_silence_beyond_the_threshold_is_death() -> None:
    """Not before, and a heartbeat starts it afresh."""
    clock = Clock()
    census = Census(5.0, clock)

    assert watch(census, clock, 5, beat_at=1.0) == set()
    assert watch(census, clock, 5, beat_at=2.0) == set()
    assert watch(census, clock, 1, beat_at=2.0) == {"a"}


def test_one_that_left_is_gone_at_once() -> None:
    """It said so itself."""
    census = Census(5.0, Clock())

    assert census.gone([OwnerRow(id="a", beat_at=1.0, left=True)]) == {"a"}


def test_silence_that_nobody_listened_to_does_not_count() -> None:
    """A process that was frozen itself, or had no database, blames nobody."""
    clock = Clock()
    census = Census(5.0, clock)
    watch(census, clock, 4, beat_at=1.0)

    clock.now += 60

    assert census.gone([OwnerRow(id="a", beat_at=1.0, left=False)]) == set()
    assert watch(census, clock, 5, beat_at=1.0) == {"a"}


@pytest.mark.parametrize(("heartbeat", "timeout", "fits"), [(1.0, 3.0, True), (1.0, 2.9, False), (0.2, 0.6, True)])
def test_the_time_out_leaves_room_for_heartbeats(heartbeat: float, timeout: float, fits: bool) -> None:
    """A timeout that one lost heartbeat could reach is refused when the settings are read."""
    if fits:
        assert load_settings(heartbeat=heartbeat, heartbeat_timeout=timeout).heartbeat_timeout == timeout
    else:
        with pytest.raises(ConfigurationError, match=r"BF_HEARTBEAT_TIMEOUT: .*three times BF_HEARTBEAT"):
            load_settings(heartbeat=heartbeat, heartbeat_timeout=timeout)
