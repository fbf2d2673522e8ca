"""An engine for servers that speak the Assistants v2 API. `bf_plugin` calls `create_engine`, by its entry point."""

from __future__ import annotations

from bf_hook_assistants.engine import AssistantsEngine
from bf_hook_assistants.section import read_section
from bf_plugin import PluginContext

__all__ = ["AssistantsEngine", "create_engine"]


def create_engine(context: PluginContext) -> AssistantsEngine:
    """Return the engine that `[plugins.assistants]` asks for. Raises ConfigurationError."""
    return AssistantsEngine(read_section(context.name, context.section), store=context.store)
