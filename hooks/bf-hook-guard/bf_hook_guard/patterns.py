"""A regular expression that can be followed while the text is still coming.

Of a text that goes on, Python's `re` can tell what matches now. A filter has to know more: may a match begin here that
only the text to come decides? So a pattern is taken apart and put together again in three ways:

* `exact` is the pattern itself;
* `cut` matches where the text breaks off within the pattern: from a place up to the end of what there is so far, while
  the matcher would want to look further. Where `cut` does not match, nothing that follows changes what `exact` says;
* `sieve` matches wherever either of them does, in one walk: it finds the places worth a closer look.

`\\Z` in them is the end of the text so far. Taking apart is done by the parser of `re` itself, which is no public
module; so whatever it says that is not known here is refused. Matching is done by `regex`, which keeps a time limit.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from bf_hook_guard.atoms import END, Pattern, PatternRefused, any_of, before, character, letter, one_of, place, unknown

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

LONGEST = 1000
"""Characters a match may take, lookahead included: as much may have to be held back."""

_FLAGS = {re.MULTILINE: "m", re.DOTALL: "s"}


def follow(source: str, *, ignore_case: bool = False) -> Pattern:
    """Take a regular expression apart. Raises PatternRefused."""
    try:
        tree = _parser.parse(source, re.IGNORECASE if ignore_case else 0)
        re.compile(source)
        flags = tree.state.flags
        pattern = replace(_flagged(_sequence(tree), flags & ~re.IGNORECASE, 0), flags=flags & re.IGNORECASE)
        _check(pattern)
    except (re.error, OverflowError) as error:
        raise PatternRefused(f"is no regular expression: {error}") from None
    except RecursionError:
        raise PatternRefused("is nested too deeply to be followed: split it into several rules") from None
    return pattern


def _check(pattern: Pattern) -> None:
    if pattern.least == 0:
        raise PatternRefused("matches the empty text, so it would match everywhere")
    if pattern.ahead > LONGEST:
        raise PatternRefused(
            f"may have to look at {pattern.ahead} characters, which would have to be held back; at most are {LONGEST}"
        )


# pieces of more than one --------------------------------------------------------------------------------------------


def _sequence(items: Iterable[tuple[Any, Any]]) -> Pattern:
    pieces = list(_words(_piece(operation.name, value) for operation, value in items))
    cut: str | None = None
    for piece in reversed(pieces):
        cut = _or(piece.cut, None if cut is None else piece.exact + cut)
    least = most = ahead = behind = 0
    start, leaps = "", False
    for piece in pieces:
        start += piece.sieve if most or leaps else piece.start
        leaps = leaps or piece.leaps
        ahead = max(ahead, most + piece.ahead)
        behind = max(behind, piece.behind - least)
        least += piece.least
        most += piece.most
    return Pattern(
        exact="".join(piece.exact for piece in pieces),
        cut=cut,
        sieve="".join(piece.sieve for piece in pieces),
        start=start,
        least=least,
        most=most,
        ahead=ahead,
        behind=behind,
        single=len(pieces) == 1 and pieces[0].single,
        loose=any(piece.loose and least == piece.least for piece in pieces),
        leaps=leaps,
    )


def _words(pieces: Iterable[Pattern]) -> Iterator[Pattern]:
    """Join characters that follow each other into one piece: nesting them one by one has its limits."""
    for single, group in groupby(pieces, key=lambda piece: piece.single):
        word = list(group)
        if not single or len(word) == 1:
            yield from word
            continue
        yield Pattern(
            exact="".join(one.exact for one in word),
            cut="".join(one.sieve for one in word[:-1]) + END,
            sieve="".join(one.sieve for one in word),
            start=word[0].start + "".join(one.sieve for one in word[1:]),
            least=len(word),
            most=len(word),
            ahead=len(word),
        )


def _branch(branches: Sequence[Any]) -> Pattern:
    pieces = [_sequence(branch) for branch in branches]
    return Pattern(
        exact=any_of(piece.exact for piece in pieces),
        cut=_or(*(piece.cut for piece in pieces)),
        sieve=any_of(piece.sieve for piece in pieces),
        start=any_of(piece.start for piece in pieces),
        least=min(piece.least for piece in pieces),
        most=max(piece.most for piece in pieces),
        ahead=max(piece.ahead for piece in pieces),
        behind=max(piece.behind for piece in pieces),
        loose=any(piece.loose for piece in pieces),
        leaps=any(piece.leaps for piece in pieces),
    )


def _or(*choices: str | None) -> str | None:
    given = [choice for choice in choices if choice is not None]
    return any_of(given) if given else None


def _flagged(piece: Pattern, added: int, removed: int) -> Pattern:
    """Return a piece within which flags are on or off."""
    if added & re.ASCII:
        raise PatternRefused("has the flag a: write [0-9] and [A-Za-z0-9_] for \\d and \\w")
    if (added | removed) & re.IGNORECASE:  # `regex` (2026.11) takes (?:[^a]|b|(?i:c)) for something else
        raise PatternRefused("has the flag i for a part of it: set ignore_case for the rule, or write [Aa] for a")
    on = "".join(sign for flag, sign in _FLAGS.items() if added & flag)
    off = "".join(sign for flag, sign in _FLAGS.items() if removed & flag)
    flags = on + (f"-{off}" if off else "")

    def form(text: str) -> str:
        return f"(?{flags}:{text})"

    cut = None if piece.cut is None else form(piece.cut)
    return replace(piece, exact=form(piece.exact), cut=cut, sieve=form(piece.sieve), start=form(piece.start))


# repeats ------------------------------------------------------------------------------------------------------------


def _repeat(value: tuple[int, int, Sequence[Any]], how: str = "") -> Pattern:
    least, most, items = value
    if most == _parser.MAXREPEAT:
        raise PatternRefused(
            "has no longest match, so any amount of text would have to be held back: write how many there may be at "
            "most, {0,100} for * and {1,100} for +"
        )
    body = _sequence(items)
    if most > 1 and body.loose:
        raise PatternRefused(
            "repeats a repeat with nothing that must stand between, which may take exponentially long: write "
            "(?:a|b){1,50} for (?:a{1,9}|b){1,9}, or put a separator that must be there into what is repeated"
        )
    one = body.exact if body.single else f"(?:{body.exact})"
    sieve = _repeated_sieve(body, least, most)
    return Pattern(
        exact=f"{one}{{{least},{most}}}{how}",
        cut=None if body.cut is None or most == 0 else f"{one}{{0,{most - 1}}}{body.cut}",
        sieve=sieve,
        start=f"{one}{{{least},{most}}}" if body.single and least < 2 else sieve,
        least=least * body.least,
        most=most * body.most,
        ahead=(most - 1) * body.most + body.ahead if most else 0,
        behind=body.behind,
        loose=least < most and how != "+",
        leaps=body.leaps,
    )


def _repeated_sieve(body: Pattern, least: int, most: int) -> str:
    """Return a repeat of which the text may show only the beginning."""
    if not body.single:
        return f"(?:{body.sieve}){{{least},{most}}}"
    whole = f"{body.exact}{{{least},{most}}}"
    return any_of([whole, f"{body.exact}{{0,{least - 1}}}{END}"]) if least else whole


# looking around, and what a piece is --------------------------------------------------------------------------------


def _look(value: tuple[int, Sequence[Any]], sign: str) -> Pattern:
    direction, items = value
    body = _sequence(items)
    if direction < 0:
        if body.ahead != body.most or body.behind:
            raise PatternRefused("has a lookbehind that itself looks around: write it without")
        return before(f"(?<{sign}{body.exact})", behind=body.most)
    exact = f"(?{sign}{body.exact})"
    return Pattern(
        exact=exact,
        cut=body.cut,
        sieve=any_of([exact, body.cut, END]),
        start=any_of([exact, body.cut]),
        ahead=body.ahead,
        behind=body.behind,
        leaps=True,
    )


def _piece(name: str, value: Any) -> Pattern:
    """Return one item of the parser's tree, in `re`'s own names for them."""
    if name == "LITERAL":
        return character(letter(value))
    if name == "NOT_LITERAL":
        return character(f"[^{letter(value)}]")
    if name == "ANY":
        return character(".")
    if name == "IN":
        return character(one_of(value))
    if name == "BRANCH":
        return _branch(value[1])
    if name == "SUBPATTERN":
        _, added, removed, items = value
        inner = _sequence(items)
        return _flagged(inner, added, removed) if added or removed else inner
    if name == "MAX_REPEAT":
        return _repeat(value)
    if name == "MIN_REPEAT":
        return _repeat(value, "?")
    if name == "POSSESSIVE_REPEAT":
        return _repeat(value, "+")
    if name == "ATOMIC_GROUP":
        inner = _sequence(value)
        return replace(inner, exact=f"(?>{inner.exact})", single=False, loose=False)
    if name in ("ASSERT", "ASSERT_NOT"):
        return _look(value, "=" if name == "ASSERT" else "!")
    if name == "AT":
        return place(value.name)
    raise unknown(name)
