"""The kit for those who test against the plugin: fakes, real processes, assertions, checks. docs/testing.md has a tour.

Names are loaded when they are first asked for, so that importing one fake does not load what the others need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bf_plugin.testing.conformance import Conformance, NotConforming, check_plugin
    from bf_plugin.testing.deployment import Deployment
    from bf_plugin.testing.engine import ScriptedEngine, call
    from bf_plugin.testing.events import assert_events, text_of
    from bf_plugin.testing.gate import Gate
    from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
    from bf_plugin.testing.process import ServerProcess, Site
    from bf_plugin.testing.provider import ProviderSimulator
    from bf_plugin.testing.store import MemoryStore
    from bf_plugin.testing.values import new_call, new_draft, new_outcome, new_run, shown

__all__ = [
    "Conformance",
    "Deployment",
    "Gate",
    "GatewayServer",
    "MemoryStore",
    "NotConforming",
    "ProviderSimulator",
    "RecordingGateway",
    "ScriptedEngine",
    "ServerProcess",
    "Site",
    "assert_events",
    "call",
    "check_plugin",
    "new_call",
    "new_draft",
    "new_outcome",
    "new_run",
    "shown",
    "text_of",
]

_MODULES = {
    "conformance": ("Conformance", "NotConforming", "check_plugin"),
    "deployment": ("Deployment",),
    "engine": ("ScriptedEngine", "call"),
    "events": ("assert_events", "text_of"),
    "gate": ("Gate",),
    "gateway": ("GatewayServer", "RecordingGateway"),
    "process": ("ServerProcess", "Site"),
    "provider": ("ProviderSimulator",),
    "store": ("MemoryStore",),
    "values": ("new_call", "new_draft", "new_outcome", "new_run", "shown"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
