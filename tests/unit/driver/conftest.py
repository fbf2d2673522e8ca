"""The world that drivers are tested in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bf_plugin.journal import open_journal
from drives import KEY, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    journal = open_journal(f"sqlite:///{tmp_path / 'journal.db'}", [KEY])
    yield World(journal)
    journal.close()
