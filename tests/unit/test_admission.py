"""A cap on those who wait."""

from __future__ import annotations

import pytest

from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import App
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


def test_runs_are_admitted_one_after_the_other() -> None:
    """Each is counted before the next: an app with a limit of its own gets no further, and nobody beyond the last."""
    taken: list[str] = []
    admission = Admission(max_runs=2, max_waiters=1, active=lambda app: taken.count(app) if app else len(taken))
    small, other = App(id="small", api_key="BFAPI_s", max_runs=1), App(id="other", api_key="BFAPI_o")

    with admission.new_run(small):
        taken.append("small")
    with pytest.raises(RequestError) as own, admission.new_run(small):
        taken.append("small")
    with admission.new_run(other):
        taken.append("other")
    with pytest.raises(RequestError) as full, admission.new_run(other):
        taken.append("other")

    assert (own.value.code, full.value.code, taken) == (429, 503, ["small", "other"])
