"""What the doctor is shown: a provider, a gateway, an app."""

from __future__ import annotations

import secrets
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import ProviderSimulator


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator(keys=[PROVIDER_KEY], models=["gpt-test", "gpt-other"]) as running:
        yield running


@pytest.fixture
def gateway() -> RecordingGateway:
    return RecordingGateway(keys=[APP_KEY])


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """A function that makes an app importable, and returns what to give as `--app`."""

    def make(app: Any) -> str:
        name = f"host_{secrets.token_hex(6)}"
        module = types.ModuleType(name)
        module.application = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
        return f"{name}:application"

    return make
