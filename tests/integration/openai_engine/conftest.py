"""The provider simulator that the engine talks to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bf_plugin.testing.provider import ProviderSimulator


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator
