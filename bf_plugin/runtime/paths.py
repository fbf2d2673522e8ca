"""Our paths, and the keys we leave in a WSGI environ."""

from __future__ import annotations

PREFIX = "/stream/create/assistants"
"""All below it is ours."""

TOOL_RESPONSE = "/llm/tool-response"
"""Shared with the host: an answer to a call that is not ours is the host's."""

AFTER = "bf_plugin.after"
"""Environ key: what to call once the answer has been sent."""
