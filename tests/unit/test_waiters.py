"""A cap on those who wait."""

from __future__ import annotations

import pytest

from bf_plugin.usecases.waiters import Waiters


def test_places_are_counted_and_given_back() -> None:
    """Over the cap there is none; a place comes back however its block ends."""
    waiters = Waiters(1)

    with waiters.place() as first, waiters.place() as second:
        assert (first, second) == (True, False)
    with pytest.raises(ZeroDivisionError), waiters.place() as again:
        again / 0
    with waiters.place() as after:
        assert after
