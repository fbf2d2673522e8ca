"""The Gemini API. `bf_plugin` calls `create_engine` through the entry point `gemini`."""

from __future__ import annotations

from bf_hook_providers.engine import ProviderEngine
from bf_hook_providers.gemini.sdk import GeminiProvider
from bf_hook_providers.sections import GeminiSection, read_section
from bf_plugin import PluginContext

__all__ = ["create_engine"]


def create_engine(context: PluginContext) -> ProviderEngine:
    """Return the engine as `[plugins.gemini]` sets it up. Raises ConfigurationError."""
    return ProviderEngine(GeminiProvider(read_section(GeminiSection, "gemini", context.section)))
