"""A stateful, streaming assistants endpoint for BetterForms-style WSGI gateways, extensible through pluggy hooks.

Names are loaded when they are first asked for: whoever needs `hookimpl` does not load the settings, and pytest, which
imports this package for its plugin wherever it is installed, loads next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bf_plugin.errors import BFError, ConfigurationError, ProviderError, RunRejected, StopRun
    from bf_plugin.plugins.context import PluginContext, PluginStore
    from bf_plugin.plugins.hookspecs import hookimpl, in_thread
    from bf_plugin.plugins.toolbox import Toolbox
    from bf_plugin.settings import Settings
    from bf_plugin.values import Delta, Outcome, Run, RunDraft, Step, ToolCall, ToolOptions, ToolResult, Usage
    from bf_plugin.web.mount import Application, mount

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
    "plugins.context": ("PluginContext", "PluginStore"),
    "errors": ("BFError", "ConfigurationError", "ProviderError", "RunRejected", "StopRun"),
    "plugins.hookspecs": ("hookimpl", "in_thread"),
    "web.mount": ("Application", "mount"),
    "settings": ("Settings",),
    "plugins.toolbox": ("Toolbox",),
    "values": ("Delta", "Outcome", "Run", "RunDraft", "Step", "ToolCall", "ToolOptions", "ToolResult", "Usage"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
