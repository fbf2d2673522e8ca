"""Going through a text that comes in pieces: what is found is what would be found in the whole of it.

Each rule finds what `finditer` finds in the whole text, but for what its check or callback refuses. What several
rules find may overlap: then all of it is covered, under the rule that begins first, at the same place the first listed.

A place in the text is decided once no rule's `cut` matches there (see patterns.py). Up to the first place that is not,
the text is let go; the rest waits for the next piece. Everything is a function of the text up to there, so it does not
matter where it was cut, nor which process has seen which part of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import regex

from bf_hook_guard.atoms import Pattern, any_of
from bf_hook_guard.pii import Check
from bf_plugin import Run, StopRun

Ask = Callable[[str, Run], object]
Match = Callable[..., "regex.Match[str] | None"]

PATIENCE = 0.5
"""Seconds of processor time that patterns may take for one piece of text; ordinary ones take 20 to 40 millionths."""


class TooSlow(Exception):
    """The patterns took too long for a text: the run ends with an error, nothing of the text is let go."""


class Instead(NamedTuple):
    """What stands in the place of a match; `mask` covers what overlaps it, character by character."""

    text: str
    mask: str = ""


class Rule:
    """What to find, and what to do about it: put `replace` in its place, `mask` each character, or `stop` the run.

    A stop with a `reason` fails the run, and the page is told the reason.
    """

    def __init__(
        self,
        *,
        name: str,
        pattern: Pattern,
        check: Check | None = None,
        ask: Ask | None = None,
        replace: str = "",
        mask: str = "",
        stop: bool = False,
        reason: str = "",
    ) -> None:
        self.name = name
        self.pattern = pattern
        self.replace = replace
        self.mask = mask
        self.stop = stop
        self.reason = reason
        self.match = regex.compile(pattern.exact, pattern.flags).match
        self._check = check
        self._ask = ask

    def end(self, found: regex.Match[str]) -> int:
        """Return where the match ends, of which the check may take less; its start if it is none."""
        return found.end() if self._check is None else found.start() + self._check(found.group())

    def instead(self, found: str, run: Run) -> Instead | None:
        """Return what stands in the place of a match, None where its callback lets it be.

        Raises TypeError when the callback returns anything but a bool, None or a text that is not empty.
        """
        answer = True if self._ask is None else self._ask(found, run)
        if answer is None or answer is False:
            return None
        if isinstance(answer, str) and answer:
            return Instead(answer)
        if answer is not True:
            raise TypeError(f"the callback of rule {self.name} returned {type(answer).__name__}, not a bool or a text")
        return Instead(self.mask * len(found), self.mask) if self.mask else Instead(self.replace)

    def stopped(self) -> StopRun:
        """Return what ends a run in which this was found."""
        return StopRun("error", self.reason) if self.reason else StopRun("content_filter", f"rule {self.name}")


class Scanner:
    """Rules, compiled together: those that ignore case, and those that do not."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        patterns = [rule.pattern for rule in rules]
        self.rules = tuple(rules)
        self.behind = max(pattern.behind for pattern in patterns)
        self.longest = max(pattern.ahead for pattern in patterns)
        groups = [(flags, [one for one in patterns if one.flags == flags]) for flags in {one.flags for one in patterns}]
        self.sieves = [regex.compile(any_of(one.start for one in group), flags).search for flags, group in groups]
        self.cuts = [regex.compile(any_of(one.cut for one in group), flags).match for flags, group in groups]


class Scan:
    """One run's text on its way through a scanner. `applied` counts, by rule, what was found."""

    def __init__(self, scanner: Scanner, run: Run, *, clock: Callable[[], float] = time.thread_time) -> None:
        self._scanner = scanner
        self._run = run
        self._clock = clock
        self._spent = 0.0
        """Seconds that patterns took for the present piece."""
        self._text = ""
        """What is undecided, and before it as much as rules look back."""
        self._at = self._shown = 0
        """Where in the text the undecided begins, and up to where it is out, or replaced."""
        self._mask = ""
        """What covers the last stretch that was replaced, if each of its characters is covered."""
        self._free: dict[int, int] = {}
        """From where on a rule may match again: its matches do not overlap each other."""
        self.applied: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """How many characters wait."""
        return len(self._text) - max(self._shown, self._at)

    def feed(self, piece: str, *, final: bool = False) -> str:
        """Take the next piece; return what may be shown by now. Raises StopRun, TooSlow, and what callbacks raise."""
        self._text += piece
        self._spent = 0.0
        shown: list[str] = []
        at = self._gone_through(shown, final)
        self._show(at, shown)
        self._forget(at)
        return "".join(shown)

    def _gone_through(self, shown: list[str], final: bool) -> int:
        """Judge what is decided; return where the undecided begins."""
        at = self._at
        starts = [-1] * len(self._scanner.sieves)
        while (at := self._found(at, starts)) < len(self._text) and (final or self._is_decided(at)):
            self._judge(at, shown)
            at += 1
        return at

    def _found(self, at: int, starts: list[int]) -> int:
        """Return where something may begin next, from a place on; `starts` keeps it for each sieve."""
        for number, search in enumerate(self._scanner.sieves):
            if starts[number] < at:
                found = self._timed(search, at)
                starts[number] = len(self._text) if found is None else found.start()
        return min(starts)

    def _is_decided(self, at: int) -> bool:
        return all(self._timed(match, at) is None for match in self._scanner.cuts)

    def _timed(self, match: Match, at: int) -> regex.Match[str] | None:
        """Look for a match from a place on, for as long as there is patience."""
        begin = self._clock()
        try:
            found = match(self._text, at, timeout=max(PATIENCE - self._spent, 0.001))
        except TimeoutError:
            found, self._spent = None, PATIENCE
        self._spent += self._clock() - begin
        if self._spent < PATIENCE:
            return found
        raise TooSlow(
            f"the patterns of {', '.join(rule.name for rule in self._scanner.rules)} take more than {PATIENCE} s for a "
            "piece of text: look for repeats that can share a text in many ways"
        )

    def _judge(self, start: int, shown: list[str]) -> None:
        """Do what the rules say about what begins here."""
        for number, rule in enumerate(self._scanner.rules):
            if start < self._free.get(number, 0) or (found := self._timed(rule.match, start)) is None:
                continue
            if (end := rule.end(found)) > start:
                self._free[number] = end
                instead = rule.instead(self._text[start:end], self._run)
                if instead is not None:
                    self._apply(rule, start, end, instead, shown)

    def _apply(self, rule: Rule, start: int, end: int, instead: Instead, shown: list[str]) -> None:
        self.applied[rule.name] += 1
        if rule.stop:
            raise rule.stopped()
        if start >= self._shown:
            self._show(start, shown)
            shown.append(instead.text)
            self._mask = instead.mask
        elif end > self._shown:
            shown.append(self._mask * (end - self._shown))
        self._shown = max(self._shown, end)

    def _show(self, end: int, shown: list[str]) -> None:
        """Let the text go up to a place, but for what is replaced."""
        if end > self._shown:
            shown.append(self._text[self._shown : end])
            self._shown = end

    def _forget(self, at: int) -> None:
        """Keep the text from a place on, and before it as much as rules look back."""
        gone = max(at - self._scanner.behind, 0)
        self._text = self._text[gone:]
        self._at, self._shown = at - gone, self._shown - gone
        if self._free:
            self._free = {number: free - gone for number, free in self._free.items() if free > at}
