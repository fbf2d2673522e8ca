"""Whatever a text is cut into, what comes out is what `re` makes of the whole of it."""

from __future__ import annotations

import itertools
import os
import re
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import regex
from bf_hook_guard import scanner as module
from bf_hook_guard.atoms import PatternRefused
from bf_hook_guard.patterns import follow
from bf_hook_guard.scanner import Rule, Scan, Scanner, TooSlow
from bf_hook_guard.settings import load, scanners
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bf_plugin import Run, StopRun
from bf_plugin.testing import new_run

EXAMPLES = int(os.environ.get("GUARD_EXAMPLES", "1"))
"""How many times as much is tried: 20 after a change of patterns.py or scanner.py."""

LETTERS = "aAb1_ .\n"
MASK = "█"


# regular expressions of any kind -------------------------------------------------------------------------------------

ATOMS = ["a", "b", "A", "1", r"\.", " ", r"\n", ".", "[ab]", "[^a]", r"\d", r"\w", r"\W", r"\s", "[a-b_]", "_"]
PLACES = [r"\b", r"\B", "^", "$", r"\A", r"\Z", "(?<=a)", "(?<!a)", r"(?<!\w)", "(?<=[ab]1)"]
REPEATS = ["?", "??", "{2}", "{0,2}", "{1,3}", "{1,3}?", "{2,4}"]
if sys.version_info >= (3, 11):
    REPEATS += ["?+", "{1,3}+", "{0,2}+"]
GROUPS = ["(?:%s)", "(%s)", "(?=%s)", "(?!%s)", "(?s:%s)", "(?m:%s)", "(?P<g>%s)"]
if sys.version_info >= (3, 11):
    GROUPS.append("(?>%s)")


def _wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.builds("(?:{}){}".format, inner, st.sampled_from(REPEATS)) | st.builds(
        "{}{}".format, st.sampled_from(ATOMS), st.sampled_from(REPEATS)
    )
    joined = st.lists(inner, min_size=2, max_size=3).map("".join)
    either = st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
    grouped = st.builds(lambda group, part: group % part, st.sampled_from(GROUPS), inner)
    return repeated | joined | joined | either | grouped


SOURCES = st.recursive(st.sampled_from(ATOMS) | st.sampled_from(PLACES) | st.sampled_from(ATOMS), _wider, max_leaves=6)
TEXTS = st.text(LETTERS, max_size=24)


@dataclass(frozen=True)
class Wanted:
    """A rule as these tests know it, with `re` and nothing else."""

    source: str
    mask: bool = True
    refused: frozenset[str] = frozenset()
    stop: bool = False
    ignore_case: bool = False

    def spans(self, text: str) -> list[tuple[int, int]]:
        flags = re.IGNORECASE if self.ignore_case else 0
        found = re.compile(self.source, flags).finditer(text)
        return [match.span() for match in found if match.group() not in self.refused]

    def rule(self) -> Rule:
        pattern = follow(self.source, ignore_case=self.ignore_case)
        action = {"stop": True} if self.stop else {"mask": MASK} if self.mask else {"replace": "<>"}
        return Rule(name=self.source, pattern=pattern, ask=lambda text, run: text not in self.refused, **action)


def wanted_output(rules: list[Wanted], text: str) -> tuple[str, bool]:
    """Return what the page is to see of a whole text, and whether the run is stopped behind it."""
    spans = sorted((start, number, end) for number, rule in enumerate(rules) for start, end in rule.spans(text))
    out, shown, mask = "", 0, ""
    for start, number, end in spans:
        if rules[number].stop:
            return out + text[shown:start], True
        if start >= shown:
            mask = MASK if rules[number].mask else ""
            out += text[shown:start] + (mask * (end - start) or "<>")
        else:
            out += mask * max(end - shown, 0)
        shown = max(shown, end)
    return out + text[shown:], False


@dataclass
class Seen:
    """What the page saw, piece by piece, and how much was held back after each."""

    pieces: list[str] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    stopped: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def played(scanner: Scanner, pieces: list[str]) -> Seen:
    scan, seen = Scan(scanner, new_run()), Seen()
    try:
        for number, piece in enumerate([*pieces, ""]):
            seen.pieces.append(scan.feed(piece, final=number == len(pieces)))
            seen.held.append(scan.held)
    except StopRun:
        seen.stopped = True
    return seen


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@st.composite
def rule_sets(draw: st.DrawFn) -> list[Wanted]:
    """Draw one to three rules that can be kept."""
    rules = []
    for source in draw(st.lists(SOURCES, min_size=1, max_size=3)):
        kind = draw(st.sampled_from(["mask", "mask", "replace", "stop"]))
        refused = draw(st.sets(st.text(LETTERS, min_size=1, max_size=2), max_size=2))
        rule = Wanted(source, kind == "mask", frozenset(refused), kind == "stop", draw(st.booleans()))
        try:
            follow(
                source, ignore_case=rule.ignore_case
            )  # `regex` compiles with `random`, which a strategy must not use
        except PatternRefused:
            assume(False)
        rules.append(rule)
    return rules


@settings(max_examples=100 * EXAMPLES, deadline=None)
@given(rules=rule_sets(), text=TEXTS, places=st.lists(st.integers(0, 30), max_size=8))
@example(rules=[Wanted("ab|abcd"), Wanted("bc", stop=True)], text="abcab", places=[2, 3])
@example(rules=[Wanted("a$")], text="a\n", places=[1])
@example(rules=[Wanted("a(?!b)")], text="aab", places=[2])
@example(rules=[Wanted(r"a\b")], text="aa a", places=[2])
@example(rules=[Wanted(r"\Aa")], text="aa", places=[1])
@example(rules=[Wanted("(?=ab)a")], text="ab", places=[1])
@example(rules=[Wanted("ba(?=(?<=a)c)")], text="bac", places=[1])
@example(rules=[Wanted("$.", ignore_case=True)], text="b\n", places=[2])
@example(rules=[Wanted("(?:b|[^a])"), Wanted("b", ignore_case=True)], text="A", places=[])
def test_the_output_is_that_of_the_unsplit_text(rules: list[Wanted], text: str, places: list[int]) -> None:
    """For any rules, text and cuts: the same output, or the same stop; and what is held is less than a match takes."""
    scanner = Scanner([rule.rule() for rule in rules])
    output, stopped = wanted_output(rules, text)

    seen = played(scanner, cut(text, places))

    assert seen.stopped == stopped
    assert output.startswith(seen.text) if stopped else seen.text == output
    assert all(held < scanner.longest for held in seen.held)


@settings(max_examples=40 * EXAMPLES, deadline=None)
@given(rules=rule_sets(), text=TEXTS, places=st.lists(st.integers(0, 30), max_size=6), seen_before=st.integers(0, 8))
def test_a_takeover_makes_the_same_of_it(rules: list[Wanted], text: str, places: list[int], seen_before: int) -> None:
    """Another process that is shown the first pieces again goes on as the first one would have."""
    scanner, pieces = Scanner([rule.rule() for rule in rules]), cut(text, places)
    assert played(scanner, pieces).pieces[:seen_before] == played(scanner, pieces[:seen_before]).pieces[:seen_before]


def plain(source: str) -> bool:
    """Tell whether a pattern looks at nothing around what it matches."""
    return not re.search(r"\\[bBAZ]|[$^](?!a\])|\(\?[=!<]", source)


@settings(max_examples=40 * EXAMPLES, deadline=None)
@given(
    sources=st.lists(SOURCES.filter(plain), min_size=1, max_size=3),
    text=TEXTS,
    places=st.lists(st.integers(0, 30), max_size=8),
)
def test_nothing_that_is_forbidden_gets_through(sources: list[str], text: str, places: list[int]) -> None:
    """Where a cover matches no rule itself, no rule matches anything in the output."""
    try:
        scanner = Scanner([Wanted(source).rule() for source in sources])
    except PatternRefused:
        assume(False)
    assume(not any(re.search(source, MASK, re.DOTALL) for source in sources))
    output = played(scanner, cut(text, places)).text
    for clear in output.split(MASK):
        assert not any(re.search(source, clear) for source in sources)


@settings(max_examples=40 * EXAMPLES, deadline=None)
@given(source=SOURCES, text=TEXTS)
def test_the_parts_of_a_pattern_say_what_it_says(source: str, text: str) -> None:
    """Taken apart and put together it finds what it found; the sieve finds each place that a match may begin at."""
    try:
        pattern = follow(source)
    except PatternRefused:
        assume(False)
    exact, sieve, cut_here = (
        regex.compile(one, pattern.flags) for one in (pattern.exact, pattern.start, pattern.cut or "(?!)")
    )
    for start in range(len(text)):
        mine, theirs = exact.match(text, start), re.compile(source).match(text, start)
        assert (mine and mine.span()) == (theirs and theirs.span())
        assert mine is None or pattern.least <= mine.end() - start <= pattern.most
        assert bool(sieve.match(text, start)) >= bool(mine or cut_here.match(text, start))


# what is held, what is shown -----------------------------------------------------------------------------------------


def guard(*rules: Mapping[str, object]) -> Scanner:
    _, scanner = scanners(load({"rules": [{"name": f"r{number}", **rule} for number, rule in enumerate(rules)]}))
    assert scanner is not None
    return scanner


@pytest.mark.parametrize(
    ("rule", "piece", "shown"),
    [
        ({"pattern": "secret"}, "no more than a se", "no more than a "),
        ({"pattern": "secret"}, "a secrecy is no secret", "a secrecy is no ██████"),
        ({"pattern": "secrets?"}, "a secret", "a "),
        ({"pattern": "a{3,5}"}, "baaaa", "b"),
        ({"pattern": "a{3,5}"}, "baaaaab", "b█████b"),
        ({"pattern": r"foo(?!bar)"}, "food foo", "███d "),
        ({"pattern": r"\bfoo\b"}, "foot foo", "foot "),
        ({"pattern": "foo$"}, "foo\n", ""),
        ({"terms": ["rose", "rosebud"]}, "a rose", "a "),
        ({"terms": ["rose", "rosebud"]}, "a rose, a rosebush", "a ████, a rosebush"),
        ({"terms": ["project x"]}, "about Project\n", "about "),
        ({"terms": ["c++"]}, "C++ and Objective-C++11", "███ and Objective-C++11"),
        ({"pii": ["email"]}, "write to bob", "write to "),
        ({"pii": ["card"]}, "it costs 4 ", "it costs "),
        ({"pii": ["card"]}, "it costs 4 euros", "it costs 4 euros"),
    ],
)
def test_only_what_may_yet_be_a_match_is_held(rule: dict[str, object], piece: str, shown: str) -> None:
    """What is decided goes out with the piece it came in."""
    assert Scan(guard(rule), new_run()).feed(piece) == shown


def test_the_end_of_the_text_decides() -> None:
    """What was held for more goes out as it is, or covered."""
    scanner = guard({"pattern": "secrets?"})
    assert played(scanner, ["no sec"]).pieces == ["no ", "sec"]
    assert played(scanner, ["a secret"]).pieces == ["a ", "██████"]


def test_overlapping_matches_are_covered_together() -> None:
    """Under the rule that begins first; no character of any match is left over."""
    first, second = {"pattern": "abc", "replace": "<1>"}, {"pattern": "cde", "mask": "#"}
    assert played(guard(first, second), list("xabcdex")).text == "x<1>x"
    assert (
        played(guard({"pattern": "bcd", "replace": "<1>"}, {"pattern": "abc", "mask": "#"}), list("xabcdx")).text
        == "x####x"
    )


def test_at_the_same_place_the_rule_that_is_listed_first_says_what_is_shown() -> None:
    """Both are covered all the same."""
    assert (
        played(guard({"pattern": "ab", "replace": "<1>"}, {"pattern": "abc", "mask": "#"}), ["xabcx"]).text == "x<1>x"
    )


def test_a_stop_within_what_is_replaced_stops() -> None:
    """A replacement does not hide what ends the run."""
    seen = played(guard({"pattern": "abc"}, {"pattern": "bcd", "stop": True}), ["x ", "ab", "cd", "x"])
    assert (seen.stopped, seen.text) == (True, "x ")


def test_rules_are_for_the_apps_they_name() -> None:
    """Others see the text as it is; rules without apps are for everybody."""
    section = {
        "rules": [{"name": "one", "pattern": "foo", "apps": ["portal"]}, {"name": "two", "pattern": "bar"}],
    }
    by_app, others = scanners(load(section))
    assert others is not None
    assert by_app["portal"] is not None
    assert played(by_app["portal"], ["foo bar"]).text == "███ ███"
    assert played(others, ["foo bar"]).text == "foo ███"


def test_many_terms_are_found() -> None:
    """Each of them, and nothing else."""
    words = [f"{first}{second}{third}" for first in string.ascii_lowercase for second in "aei" for third in "xyz"]
    scanner = guard({"terms": words})
    text = " ".join([*words, "nothing", "ax", "axxy"])
    assert played(scanner, cut(text, [*range(0, len(text), 7)])).text == "███ " * len(words) + "nothing ax axxy"


# time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("(?:ab|ab){30}c", "ab" * 40),
        (r"(?=[ab]{1,300}[ab]{1,300}[ab]{1,300}[xy])a", "a" * 900 + "c"),
    ],
)
def test_a_pattern_that_takes_too_long_ends_the_run(pattern: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exponential ones that cannot be told beforehand, and those of a high power: nothing goes out."""
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    scanner = guard({"pattern": pattern})
    with pytest.raises(TooSlow, match=r"the patterns of r0 take more than 0.05 s"):
        played(scanner, [text, "."])


def test_what_a_callback_takes_is_not_the_patterns_time() -> None:
    """Time is counted while a pattern is matched only, and for each piece anew."""
    clock = [0.0]

    def ask(text: str, run: Run) -> bool:
        clock[0] += 10
        return True

    rule = Rule(name="x", pattern=follow("a"), ask=ask, mask="*")
    scan = Scan(Scanner([rule]), new_run(), clock=lambda: clock[0])
    assert "".join(scan.feed("ab ") for _ in range(3)) == "*b *b *b "


def test_many_calls_share_the_time_of_a_piece() -> None:
    """A text with a match at each place cannot take the time for each of them."""
    ticks = itertools.count(0.0, 0.01)
    scan = Scan(guard({"pattern": "a"}), new_run(), clock=lambda: next(ticks))
    assert scan.feed("aaa") == "███"
    with pytest.raises(TooSlow):
        scan.feed("a" * 100)


# callbacks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "shown"),
    [(True, "a ███ b"), (False, "a foo b"), (None, "a foo b"), ("<bar>", "a <bar> b")],
)
def test_a_callback_decides_about_a_match(answer: object, shown: str) -> None:
    """With the text that matched and the run: the rule's own action, nothing, or another text."""
    asked: list[tuple[str, str]] = []

    def ask(text: str, run: Run) -> object:
        asked.append((text, run.app))
        return answer

    scanner = Scanner([Rule(name="x", pattern=follow("fo{1,3}"), ask=ask, mask=MASK)])
    assert played(scanner, ["a f", "oo", " b"]).text == shown
    assert asked == [("foo", new_run().app)]


@pytest.mark.parametrize("answer", ["", 1, ["x"]])
def test_a_callback_that_answers_anything_else_ends_the_run(answer: object) -> None:
    """It is not guessed what it means."""
    scanner = Scanner([Rule(name="x", pattern=follow("foo"), ask=lambda text, run: answer, mask=MASK)])
    with pytest.raises(TypeError, match="the callback of rule x returned"):
        played(scanner, ["a foo b"])
