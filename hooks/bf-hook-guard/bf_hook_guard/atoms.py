"""The smallest pieces of a pattern, a character or a place between two, and what is known of each. See patterns.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

END = r"\Z"
"""The end of the text so far."""

_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}


class PatternRefused(ValueError):
    """A pattern that cannot be kept; the text says why and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern, or a piece of one. `cut` is None where no text can break off within it.

    `sieve` is what stands behind other pieces, `start` where nothing was consumed yet. Sizes are in characters:
    `least` and `most` of a match, `ahead` how far from its beginning the matcher may look, `behind` how far back.
    """

    exact: str
    cut: str | None
    sieve: str
    start: str
    least: int = 0
    most: int = 0
    ahead: int = 0
    behind: int = 0
    single: bool = False
    """Whether it is one character, so that it can be repeated quickly."""
    loose: bool = False
    """Whether nothing but a repeat may match all of it, so that two of it can share a text in many ways."""
    leaps: bool = False
    """Whether it has no width, and its sieve all the same may take the text to its end."""
    flags: int = 0
    """Those of the whole pattern that compiling has to be told: `re.IGNORECASE`, or none."""


def any_of(patterns: Iterable[str | None]) -> str:
    """Return an alternation, which matches nothing if there is nothing to choose from."""
    choices = [pattern for pattern in patterns if pattern is not None]
    return f"(?:{'|'.join(choices)})" if choices else "(?!)"


def before(exact: str, *, behind: int) -> Pattern:
    """Return a place that is decided by what came before; at the end of the text it may yet be followed by others."""
    return Pattern(exact=exact, cut=None, sieve=any_of([exact, END]), start=exact, behind=behind)


def place(name: str) -> Pattern:
    """Return `^`, `$`, `\\A`, `\\Z`, `\\b` or `\\B`, by the parser's name for it. Raises PatternRefused for others."""
    if name == "AT_BEGINNING":
        return before("^", behind=1)
    if name == "AT_BEGINNING_STRING":
        return before(r"\A", behind=1)
    if name in ("AT_BOUNDARY", "AT_NON_BOUNDARY"):
        exact = r"\b" if name == "AT_BOUNDARY" else r"\B"
        return Pattern(exact=exact, cut=END, sieve=any_of([exact, END]), start=exact, ahead=1, behind=1)
    if name in ("AT_END", "AT_END_STRING"):
        exact = "$" if name == "AT_END" else END
        cut = rf"\n?{END}"  # `$` is also before a line feed that is the last character
        either = any_of([exact, cut])
        return Pattern(exact=exact, cut=cut, sieve=either, start=either, ahead=2, leaps=True)
    raise unknown(name)


def character(exact: str) -> Pattern:
    """Return what matches one character."""
    return Pattern(exact=exact, cut=END, sieve=f"(?:{exact}|{END})", start=exact, least=1, most=1, ahead=1, single=True)


def letter(code: int) -> str:
    """Write a character so that it means itself, in a set too."""
    return chr(code) if chr(code).isalnum() else f"\\U{code:08x}"


def one_of(items: Sequence[tuple[Any, Any]]) -> str:
    """Write a set of characters, `[...]`."""
    return f"[{''.join(_member(operation.name, value) for operation, value in items)}]"


def _member(name: str, value: Any) -> str:
    if name == "NEGATE":
        return "^"
    if name == "LITERAL":
        return letter(value)
    if name == "RANGE":
        return f"{letter(value[0])}-{letter(value[1])}"
    if name == "CATEGORY":
        return _CATEGORIES[value.name]
    raise unknown(name)


def unknown(name: str) -> PatternRefused:
    """Return the refusal of something that the parser names `name`."""
    what = "refers to a group of its own (\\1 and the like)" if name.startswith("GROUPREF") else f"has a {name}"
    return PatternRefused(f"{what}, which cannot be followed while the text comes: write it without")
