"""What a run is said to do, or why it is stuck, by what the journal has of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bf_plugin.cli.diagnosis import Diagnosis, diagnose, duration
from bf_plugin.journal.overview import CallLine, RunLine, StepLine
from bf_plugin.journal.states import CallState, StepState
from bf_plugin.values import Usage

NOW = 10_000.0
RUN = RunLine(
    id="run_x",
    app="portal",
    state="active",
    outcome=None,
    finish_reason=None,
    owner="1-2-3",
    attempts=0,
    created_at=NOW - 30,
    started_at=NOW - 30,
    ended_at=None,
    deadline=NOW + 570,
)


def step(state: StepState, age: float = 5) -> StepLine:
    return StepLine(number=2, state=state, started_at=NOW - age, ended_at=None, usage=Usage())


def tool(state: CallState = "started", deadline: float | None = None) -> CallLine:
    return CallLine(step=2, name="getWeather", state=state, deadline=deadline)


def of(alive: bool = True, messages: dict[str, int] | None = None, **parts: Any) -> Diagnosis:
    lists = {name: parts.pop(name, ()) for name in ("steps", "calls")}
    return diagnose(replace(RUN, **parts), alive=alive, messages=messages or {}, now=NOW, **lists)


@pytest.mark.parametrize(
    ("found", "text", "stuck"),
    [
        (of(state="ended", alive=False), "", False),
        (of(alive=False), "its process is gone: another process will take it over", True),
        (of(deadline=NOW - 120), "2 min past its deadline: its process makes no progress", True),
        (of(state="queued"), "waits for the run before it on its thread", False),
        (of(state="queued", outcome="cancelled"), "is stopped and about to end", False),
        (of(messages={"sealed": 1}), "the gateway has not accepted its last message yet", False),
        (of(state="ending", outcome="completed"), "is ending", False),
        (of(calls=[tool("done"), tool()]), "waits for tool getWeather", False),
        (of(calls=[tool(deadline=NOW + 60)]), "waits for a page to answer getWeather, for 1 min more", False),
        (of(), "is about to ask the provider", False),
        (of(steps=[step("creating")]), "waits for the provider to accept step 2, since 5 s", False),
        (of(steps=[step("creating", 61)]), "waits for the provider to accept step 2, since 1 min", True),
        (of(steps=[step("named")]), "receives step 2", False),
        (of(steps=[step("done")], calls=[tool("done")]), "is between steps 2 and 3", False),
    ],
)
def test_what_a_run_does(found: Diagnosis, text: str, stuck: bool) -> None:
    """Each state has its sentence."""
    assert found == Diagnosis(text, stuck)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_durations(seconds: float, text: str) -> None:
    """Time spans are told in one unit."""
    assert duration(seconds) == text
