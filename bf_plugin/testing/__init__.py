"""Fakes and fixtures for those who test against the plugin, and for the demo.

Names are loaded when they are first asked for, so that importing one fake does not load what the others need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
    from bf_plugin.testing.provider import Gate, ProviderSimulator

__all__ = ["Gate", "GatewayServer", "ProviderSimulator", "RecordingGateway"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = "gateway" if "Gateway" in name else "provider"
    return getattr(importlib.import_module(f"{__name__}.{package}"), name)
