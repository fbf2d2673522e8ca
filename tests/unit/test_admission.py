"""A cap on those who wait."""

from __future__ import annotations

import pytest

from bf_plugin.usecases.admission import Admission


def test_places_are_counted_and_given_back() -> None:
    """Over the cap there is none; a place comes back however its block ends."""
    admission = Admission(max_runs=1, max_waiters=1, active=lambda app: 0)

    with admission.waiting() as first, admission.waiting() as second:
        assert (first, second) == (True, False)
    with pytest.raises(ZeroDivisionError), admission.waiting() as again:
        again / 0
    with admission.waiting() as after:
        assert after
