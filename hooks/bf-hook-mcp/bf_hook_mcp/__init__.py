"""The tools of MCP servers, for the runs of `bf_plugin`. See README.md; operators configure it in `[plugins.mcp]`."""

from __future__ import annotations

from bf_hook_mcp.plugin import Servers, create

__all__ = ["Servers", "create"]
