"""Many words as one pattern: a tree of their letters, so that a thousand cost hardly more than a few."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SPACE = r"\s{1,8}"

Tree = dict[str, Any]
"""Next letter to what may follow it; under the empty text where a word ends."""


def pattern_of(terms: Iterable[str], *, ignore_case: bool = True) -> str:
    """Return a pattern for whole words: no letter, digit or underscore directly before or behind.

    Where a term has a space, any white space will do, a line break too.
    """
    tree: Tree = {}
    for term in terms:
        branch = tree
        for letter in _letters(term.lower() if ignore_case else term):
            branch = branch.setdefault(letter, {})
        branch[""] = {}
    return rf"(?<!\w){_written(tree)}(?!\w)"


def _letters(term: str) -> list[str]:
    """Return a term's letters as patterns."""
    words = term.split()
    letters = [[re.escape(letter) for letter in word] for word in words]
    return [letter for number, word in enumerate(letters) for letter in ([_SPACE] if number else []) + word]


def _written(tree: Tree) -> str:
    """Write a tree; the longest word is tried first."""
    choices = [letter + _written(rest) for letter, rest in tree.items() if letter]
    if not choices:
        return ""
    text = choices[0] if len(choices) == 1 and "" not in tree else f"(?:{'|'.join(choices)})"
    return f"{text}?" if "" in tree else text
