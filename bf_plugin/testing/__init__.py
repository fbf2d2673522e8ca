"""Fakes and fixtures for those who test against the plugin, and for the demo.

Names are loaded when they are first asked for, so that importing one fake does not load what the others need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bf_plugin.testing.provider import Gate, ProviderSimulator

__all__ = ["Gate", "ProviderSimulator"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bf_plugin.testing import provider

    return getattr(provider, name)
