"""A process of Node.js for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodes import Node


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    process = Node()
    yield process
    process.close()
