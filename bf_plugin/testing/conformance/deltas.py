"""What `on_delta` makes of a text: without blocking, however it is cut, after a takeover too, and at what cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bf_plugin.errors import ContextError, PluginError, StopRun
from bf_plugin.testing.conformance.report import Problem
from bf_plugin.testing.conformance.subject import Subject, reason
from bf_plugin.testing.conformance.watch import Watch
from bf_plugin.values import Delta, Run

T = TypeVar("T")

SLOW = 0.05
"""Seconds that a call on the loop may take at its fastest: a generous bound, since machines that test are busy."""

SAMPLES = (
    "The quick brown fox",
    "Grüße, 東京! 👩‍👩‍👧 e\u0301",
    "alice@example.com +44 20 7946 0958",
    "4111 1111 1111 1111",
    "DE89 3704 0044 0532 0130 00",
    "https://example.com/a?b=c#d",
    "```python\nprint('x')\n```\n",
    "| a | b |\n|---|---|\n",
    "**bold** _it_ [link](http://x) <b>html</b> &amp;",
    "--  ...\r\n\t",
)
"""Pieces of text that filters look for, beside those a test gives."""


class _Broken(Exception):
    """A rule that a text breaks."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(what)
        self.rule = rule
        self.what = what


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the page sees: piece by piece, and how the run was stopped, if it was."""

    pieces: list[str]
    stopped: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def up_to(self, count: int) -> str:
        """Return what the first pieces came to."""
        return "".join(self.pieces[:count])

    def agrees(self, other: _Shown) -> bool:
        """Tell whether two runs of a text show the same; a run that is stopped may show more or less of it."""
        if self.stopped is None:
            return (self.text, None) == (other.text, other.stopped)
        same_start = self.text.startswith(other.text) or other.text.startswith(self.text)
        return self.stopped == other.stopped and same_start


# blocking and cost ---------------------------------------------------------------------------------------------------


def check_loop(subject: Subject) -> Iterator[Problem]:
    """Call what is called on the event loop there, and see whether it blocks."""
    if (offer := getattr(subject.plugin, "bf_tools", None)) is not None:
        yield from _on_loop(subject, "bf_tools", lambda run: offer())
    if "on_delta" in subject.hooks and not subject.calls.delta_in_thread:
        yield from _on_loop(subject, "on_delta", lambda run: _play(subject, run, ("text ", "and more"), 0))


def _on_loop(subject: Subject, hook: str, call: Callable[[Run], object]) -> Iterator[Problem]:
    runs = [subject.new_run() for _ in range(5)]
    fastest, seen, error = subject.on_loop(lambda: _watched(call, runs))
    if error is not None and isinstance(error.__cause__ or error, ContextError):
        yield Problem(plugin=subject.name, rule="loop", what=f"{hook}: {error.__cause__ or error}")
    elif seen:
        yield Problem(plugin=subject.name, rule="loop", what=f"{hook} blocks the event loop: {', '.join(sorted(seen))}")
    elif fastest > SLOW:
        what = f"{hook} takes {fastest * 1000:.0f} ms on the event loop, in which no other run goes on"
        yield Problem(plugin=subject.name, rule="loop", what=what)


def _watched(call: Callable[[Run], object], runs: Sequence[Run]) -> tuple[float, set[str], Exception | None]:
    """Call a function for each run; the first call does not count, since it may import what it needs."""
    seconds: list[float] = []
    seen: set[str] = set()
    error = None
    for number, run in enumerate(runs):
        watch = Watch()
        started = time.perf_counter()
        try:
            with watch:
                call(run)
        except Exception as raised:
            error = raised
        seconds.append(time.perf_counter() - started)
        seen |= watch.seen if number else set()
    return min(seconds), seen, error


def cost_of_delta(subject: Subject) -> float | None:
    """Return what a piece of 40 characters costs, the guard around the plugin included, in microseconds."""
    if "on_delta" not in subject.hooks:
        return None
    run = subject.new_run()
    try:
        return statistics.median(_where_it_belongs(subject, lambda: _timed(subject, run))) * 1e6
    except (PluginError, StopRun):
        return None  # it raises: said elsewhere


def _timed(subject: Subject, run: Run) -> list[float]:
    """Return the seconds of each of many calls."""
    seconds = []
    for _ in range(200):
        delta = Delta("The quick brown fox jumps over the dogs.")
        started = time.perf_counter()
        subject.calls.on_delta(run, delta)
        seconds.append(time.perf_counter() - started)
    return seconds


def _where_it_belongs(subject: Subject, function: Callable[[], T]) -> T:
    """Call a function that calls `on_delta` where a mount does: on the loop, or in a worker."""
    return (subject.in_worker if subject.calls.delta_in_thread else subject.on_loop)(function)


# however text is cut -------------------------------------------------------------------------------------------------


@st.composite
def _cuts(draw: st.DrawFn, texts: Sequence[str]) -> tuple[str, ...]:
    """Draw a text in pieces; those that a test gives make up much of it."""
    parts = st.sampled_from(SAMPLES) | st.text(max_size=6)
    text = "".join(draw(st.lists(st.sampled_from(texts) | parts if texts else parts, min_size=1, max_size=6)))
    places = sorted(draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]
    return tuple(piece for piece in pieces if piece)


def check_splitting(subject: Subject) -> Iterator[Problem]:
    """Cut texts anywhere: what the page sees is the same, in one piece or many, in one process or two."""
    if "on_delta" not in subject.hooks:
        return

    @settings(
        max_examples=subject.bench.examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(_cuts(subject.bench.texts))
    def check(pieces: tuple[str, ...]) -> None:
        whole, split = _shown(subject, ("".join(pieces),)), _shown(subject, pieces)
        if not whole.agrees(split):
            raise _Broken(
                "splitting", f"{_told(split)} of {pieces!r}, and {_told(whole)} of the same text in one piece"
            )
        for count in range(1, len(pieces) + 1):
            again = _shown(subject.another, pieces, replayed=count)
            if not (split.agrees(again) and split.up_to(count).startswith(again.up_to(count))):
                what = f"{again.pieces!r} of {pieces!r}, when another process took the run over after {count} of them"
                raise _Broken("replay", f"{what}, and {split.pieces!r} when none did")

    try:
        check()
    except _Broken as broken:
        yield Problem(plugin=subject.name, rule=broken.rule, what=f"on_delta makes {broken.what}")


def _told(shown: _Shown) -> str:
    return repr(shown.text) if shown.stopped is None else f"{shown.text!r} and StopRun({shown.stopped!r})"


def _shown(subject: Subject, pieces: Sequence[str], *, replayed: int = 0) -> _Shown:
    """Play a text of a run."""
    run = subject.new_run()
    try:
        return _where_it_belongs(subject, lambda: _play(subject, run, pieces, replayed))
    except PluginError as error:
        raise _Broken("ordinary", f"nothing of {tuple(pieces)!r}: {reason(error)}") from None


def _play(subject: Subject, run: Run, pieces: Sequence[str], replayed: int) -> _Shown:
    shown: list[str] = []
    deltas = [Delta(piece, replay=number < replayed) for number, piece in enumerate(pieces)]
    try:
        for delta in (*deltas, Delta("", final=True)):
            subject.calls.on_delta(run, delta)
            shown.append(delta.text)
    except StopRun as stop:
        return _Shown(shown, stop.finish_reason)
    return _Shown(shown)
