"""Anthropic's Messages API. `bf_plugin` calls `create_engine` through the entry point `anthropic`."""

from __future__ import annotations

from bf_hook_providers.anthropic.sdk import AnthropicProvider
from bf_hook_providers.engine import ProviderEngine
from bf_hook_providers.sections import AnthropicSection, read_section
from bf_plugin import PluginContext

__all__ = ["create_engine"]


def create_engine(context: PluginContext) -> ProviderEngine:
    """Return the engine as `[plugins.anthropic]` sets it up. Raises ConfigurationError."""
    return ProviderEngine(AnthropicProvider(read_section(AnthropicSection, "anthropic", context.section)))
