"""Any server that speaks chat completions. `bf_plugin` calls `create_engine` through the entry point `chat`."""

from __future__ import annotations

from bf_hook_providers.chat.sdk import ChatProvider
from bf_hook_providers.engine import ProviderEngine
from bf_hook_providers.sections import ChatSection, read_section
from bf_plugin import PluginContext

__all__ = ["create_engine"]


def create_engine(context: PluginContext) -> ProviderEngine:
    """Return the engine as `[plugins.chat]` sets it up. Raises ConfigurationError."""
    return ProviderEngine(ChatProvider(read_section(ChatSection, "chat", context.section)))
