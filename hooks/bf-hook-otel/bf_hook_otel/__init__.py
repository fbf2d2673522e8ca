"""OpenTelemetry traces and metrics of the runs of bf_plugin. See README.md."""

from __future__ import annotations

from bf_hook_otel.plugin import Otel
from bf_plugin import PluginContext

__all__ = ["Otel", "create"]


def create(context: PluginContext) -> Otel:
    """Make the plugin."""
    return Otel(context)
