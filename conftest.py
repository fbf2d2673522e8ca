"""Fixtures that the tests of the core and of the distributions in hooks/ share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.testing.deployment import Deployment


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Return a function that deploys the plugin with the given settings; all is closed after the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Deployment:
            options.setdefault("folder", tmp_path)
            return stack.enter_context(Deployment(**options))

        yield make


@pytest.fixture
def deployed(deploy: Callable[..., Deployment]) -> Deployment:
    """The plugin deployed with default settings."""
    return deploy()
