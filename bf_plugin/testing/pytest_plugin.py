"""Fixtures for tests of plugins, found by pytest wherever `bf_plugin` is installed. docs/testing.md has a tour.

pytest imports this module before coverage is measured and in every project of such an installation, so nothing but
pytest is imported here: each fixture imports what it needs. `-p no:bf_plugin` leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bf_plugin.plugins.context import PluginContext
    from bf_plugin.testing.deployment import Deployment
    from bf_plugin.testing.process import Site


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Return a function that makes a `Deployment` with the given options and settings; closed after the test."""
    from bf_plugin.testing.deployment import Deployment

    with ExitStack() as stack:

        def make(**options: Any) -> Deployment:
            options.setdefault("folder", tmp_path)
            return stack.enter_context(Deployment(**options))

        yield make


@pytest.fixture
def deployed(deploy: Callable[..., Deployment]) -> Deployment:
    """The plugin with default settings and all that is installed, a gateway around it, a simulated provider."""
    return deploy()


@pytest.fixture
def scripted(deploy: Callable[..., Deployment]) -> Iterator[Callable[..., Deployment]]:
    """Return a function that makes a `Deployment` whose model says these scripts, without a provider.

    Options are those of `deploy`. A script that was not played, or one too few, fails the test.
    """
    from bf_plugin.testing.engine import ScriptedEngine

    engines: list[ScriptedEngine] = []

    def make(*scripts: Any, **options: Any) -> Deployment:
        engines.append(ScriptedEngine(*scripts))
        return deploy(engine=engines[-1], **options)

    yield make
    for engine in engines:
        engine.assert_played()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway, a provider and the environment for server processes; all that was started is killed after the test."""
    from bf_plugin.testing.process import Site

    with Site(folder=tmp_path) as running:
        yield running


@pytest.fixture
def plugin_context() -> Iterator[Callable[..., PluginContext]]:
    """Return a function that makes a `PluginContext`, for tests that call a factory.

    Its options are the context's fields; without them it has no settings, a `MemoryStore`, and the event loop that all
    contexts of a test share.
    """
    from bf_plugin.testing.contexts import Contexts

    with Contexts() as contexts:
        yield contexts.new
