"""What a unit test may not do: reach for a network, or start a process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

_FORBIDDEN = {"socket.bind", "socket.connect", "subprocess.Popen", "os.fork", "os.posix_spawn"}


class _Watch:
    """Raises at what is forbidden, while a unit test runs. Python offers no way to take such a hook away again."""

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _FORBIDDEN:
            raise AssertionError(f"a unit test did {event}{arguments}: it belongs in tests/integration")


@pytest.fixture(scope="session")
def watch() -> _Watch:
    return _Watch()


@pytest.fixture(autouse=True)
def confined(watch: _Watch) -> Iterator[None]:
    watch.on = True
    yield
    watch.on = False


@pytest.fixture
def unconfined(confined: None, watch: _Watch) -> None:
    """For tests of something that has to notice what is forbidden."""
    watch.on = False
