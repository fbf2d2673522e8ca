"""A stateful, streaming assistants endpoint for BetterForms-style WSGI gateways, extensible through pluggy hooks."""

from __future__ import annotations

from bf_plugin.errors import BFError, ConfigurationError, ProviderError, RunRejected, StopRun
from bf_plugin.hookspecs import hookimpl, in_thread
from bf_plugin.middleware import Application, mount
from bf_plugin.plugins import PluginContext
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
