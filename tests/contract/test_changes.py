"""The fragments of the changelog: each is one sentence of a kind that a release knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KINDS = {"added", "changed", "deprecated", "removed", "fixed", "security"}
FRAGMENTS = sorted(path for path in (ROOT / "changes").glob("*") if not path.name.startswith("."))


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_one_sentence(fragment: Path) -> None:
    """Its name says what it is about and what kind of change it is."""
    subject, kind, suffix = fragment.name.split(".")
    assert (kind in KINDS, suffix) == (True, "md")
    assert re.fullmatch(r"[a-z0-9-]+", subject)
    sentence = fragment.read_text(encoding="utf-8")
    assert sentence.endswith(".\n")
    assert sentence.count("\n") == 1


def test_a_release_knows_where_to_put_them() -> None:
    """Towncrier writes below this line; what stands above it stays."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert changelog.count("<!-- towncrier release notes start -->") == 1
