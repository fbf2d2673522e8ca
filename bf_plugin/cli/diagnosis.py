"""What a run does or waits for, as the journal has it: for operators who ask why nothing moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bf_plugin.journal.overview import CallLine, RunLine, StepLine

_SLOW = 60.0
"""Seconds after which waiting for the provider to accept is worth a look."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a run does (`text`); `stuck` if it will not go on by itself, or not as it should: then `text` says why."""

    text: str
    stuck: bool = False


def diagnose(
    run: RunLine,
    *,
    alive: bool,
    steps: Sequence[StepLine],
    calls: Sequence[CallLine],
    messages: Mapping[str, int],
    now: float,
) -> Diagnosis:
    """Say what a run does at `now` (POSIX seconds); `alive` tells whether its owner is."""
    if run.state == "ended":
        return Diagnosis("")
    if not alive:
        return Diagnosis("its process is gone: another process will take it over", stuck=True)
    if run.deadline is not None and now > run.deadline + 1:
        return Diagnosis(f"{duration(now - run.deadline)} past its deadline: its process makes no progress", stuck=True)
    if run.state == "queued":
        return Diagnosis("is stopped and about to end" if run.outcome else "waits for the run before it on its thread")
    if messages.get("sealed"):
        return Diagnosis("the gateway has not accepted its last message yet")
    if run.outcome is not None:
        return Diagnosis("is ending")
    open_calls = [call for call in calls if call.state == "started"]
    if open_calls:
        return Diagnosis(", ".join(_waiting(call, now) for call in open_calls))
    return _step(steps[-1], now) if steps else Diagnosis("is about to ask the provider")


def duration(seconds: float) -> str:
    """Return a time span in the largest fitting unit, such as `3 min`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _waiting(call: CallLine, now: float) -> str:
    if call.deadline is None:
        return f"waits for tool {call.name}"
    return f"waits for a page to answer {call.name}, for {duration(call.deadline - now)} more"


def _step(step: StepLine, now: float) -> Diagnosis:
    if step.state == "creating":
        waited = now - step.started_at
        text = f"waits for the provider to accept step {step.number}, since {duration(waited)}"
        return Diagnosis(text, stuck=waited > _SLOW)
    if step.state == "named":
        return Diagnosis(f"receives step {step.number}")
    return Diagnosis(f"is between steps {step.number} and {step.number + 1}")
