"""The built-in engine. The entry point `openai` of the group `bf_plugin.engines` names `create_engine`."""

from __future__ import annotations

from typing import Any

from bf_plugin.engines.openai.engine import OpenAIEngine

__all__ = ["OpenAIEngine", "create_engine"]


def create_engine(context: Any) -> OpenAIEngine:
    """Return the engine that `context.settings` asks for (`background`, `state_mode`); None: the defaults."""
    settings = context.settings
    if settings is None:
        return OpenAIEngine()
    return OpenAIEngine(background=settings.background, state_mode=settings.state_mode)
