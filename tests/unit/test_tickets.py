"""Tickets: whatever the driver and the caller do, and in whichever order, the start has one answer."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bf_plugin.errors import RequestError
from bf_plugin.run.ticket import FullEnding, Ticket
from bf_plugin.values import Usage

ENDING = FullEnding(status="completed", finish_reason="stop", usage=Usage(), content=[])


def _accept(ticket: Ticket) -> str | None:
    ticket.accept()
    return None


def _refuse(ticket: Ticket) -> str | None:
    """What the driver does with a provider's refusal: take the run back only if the caller is told."""
    if not ticket.claim():
        return None
    ticket.refuse(RequestError(400, "refused"))
    return "refused"


def _fail(ticket: Ticket) -> str | None:
    ticket.fail(RequestError(503, "failed"))
    return None


def _end(ticket: Ticket) -> str | None:
    ticket.end(ENDING)
    return None


def _wait(ticket: Ticket) -> str:
    try:
        ticket.wait_accepted(0)
    except RequestError as error:
        return error.message
    return "exists"


def _release(ticket: Ticket) -> None:
    ticket.release()


Step = Callable[[Ticket], str | None]

STEPS: list[Step] = [_accept, _refuse, _fail, _end, _release]


@given(before=st.lists(st.sampled_from(STEPS), max_size=4), after=st.lists(st.sampled_from(STEPS), max_size=4))
def test_a_start_has_one_answer(before: list[Step], after: list[Step]) -> None:
    """What the caller is told first stays so; the driver takes a run back only when that is what the caller hears."""
    ticket, answered = Ticket(), []
    ticket.when_answered(lambda: answered.append(True))

    refused = [step(ticket) for step in before].count("refused")
    answer = _wait(ticket)
    refused_later = [step(ticket) for step in after].count("refused")

    assert (refused == 1) is (answer == "refused")
    assert refused_later == 0
    assert answered == [True]


@given(before=st.lists(st.sampled_from(STEPS), max_size=5))
def test_a_failed_ticket_keeps_nobody_waiting(before: list[Step]) -> None:
    """After `fail` both of the caller's waits return, with the result where there is one."""
    ticket = Ticket()
    for step in before:
        step(ticket)
    ticket.fail(RequestError(503, "failed"))

    _wait(ticket)

    assert ticket.ended.done()
    ended_first = _end in before and (_fail not in before or before.index(_end) < before.index(_fail))
    assert (ticket.ended.exception() is None) is ended_first


def test_a_refusal_under_way_is_waited_for() -> None:
    """A caller whose patience ends while its run is taken back hears the refusal, not that the run exists."""
    ticket, heard = Ticket(), []
    assert ticket.claim()
    caller = threading.Thread(target=lambda: heard.append(_wait(ticket)))
    caller.start()

    ticket.refuse(RequestError(400, "refused"))
    caller.join(5)

    assert heard == ["refused"]


def test_a_driver_that_dies_while_it_refuses() -> None:
    """Whoever claimed the answer and cannot give it: the caller gets an error all the same."""
    ticket = Ticket()
    ticket.claim()

    ticket.fail(RequestError(503, "failed"))

    with pytest.raises(RequestError, match="failed"):
        ticket.wait_accepted(5)


def test_many_may_release() -> None:
    """The answer's close and the safety net may come at once, in two threads."""
    for _ in range(200):
        ticket, gate = Ticket(), threading.Barrier(2)
        errors: list[object] = []

        def release(ticket: Ticket = ticket, gate: threading.Barrier = gate, errors: list[object] = errors) -> None:
            gate.wait(5)
            try:
                ticket.release()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=release) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert errors == []
        assert ticket.released.done()
