"""The tests themselves: their files have names of their own and one subject each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("tests", "hooks") for path in (ROOT / folder).rglob("test_*.py")]


def test_no_two_files_of_tests_have_one_name() -> None:
    """A name alone says which file is meant."""
    names = Counter(path.name for path in FILES)
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_of_tests_is_long() -> None:
    """Look for the second subject; a worker takes whole files, too."""
    assert [path.name for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 600] == []
