"""A stateful, streaming assistants endpoint for BetterForms-style WSGI gateways, extensible through pluggy hooks.

Names are loaded when they are first asked for: whoever needs `hookimpl` does not load the settings, and pytest, which
imports this package for its plugin wherever it is installed, loads next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bf_plugin.context import PluginContext, PluginStore
    from bf_plugin.errors import BFError, ConfigurationError, ProviderError, RunRejected, StopRun
    from bf_plugin.hookspecs import hookimpl, in_thread
    from bf_plugin.middleware import Application, mount
    from bf_plugin.settings import Settings
    from bf_plugin.tools import Toolbox
    from bf_plugin.values import Delta, Outcome, Run, RunDraft, Step, ToolCall, ToolOptions, ToolResult, Usage

__all__ = [
    "Application",
    "BFError",
    "ConfigurationError",
    "Delta",
    "Outcome",
    "PluginContext",
    "PluginStore",
    "ProviderError",
    "Run",
    "RunDraft",
    "RunRejected",
    "Settings",
    "Step",
    "StopRun",
    "ToolCall",
    "ToolOptions",
    "ToolResult",
    "Toolbox",
    "Usage",
    "hookimpl",
    "in_thread",
    "mount",
]

_MODULES = {
    "context": ("PluginContext", "PluginStore"),
    "errors": ("BFError", "ConfigurationError", "ProviderError", "RunRejected", "StopRun"),
    "hookspecs": ("hookimpl", "in_thread"),
    "middleware": ("Application", "mount"),
    "settings": ("Settings",),
    "tools": ("Toolbox",),
    "values": ("Delta", "Outcome", "Run", "RunDraft", "Step", "ToolCall", "ToolOptions", "ToolResult", "Usage"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
