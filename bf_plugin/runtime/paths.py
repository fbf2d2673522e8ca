"""Our paths, and the key we leave in a WSGI environ."""

from __future__ import annotations

PREFIX = "/stream/create/assistants"
"""Every path below it is ours."""

TOOL_RESPONSE = "/llm/tool-response"
"""Shared with the host: an answer to a call that is not ours goes to the host."""

AFTER = "bf_plugin.after"
"""Environ key of a list: what to call once the answer has been sent."""
