"""Fixtures for the tests that start server processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bf_plugin.testing.process import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway, a provider and the environment for servers; those started from it are killed after the test."""
    with Site(folder=tmp_path) as running:
        yield running
