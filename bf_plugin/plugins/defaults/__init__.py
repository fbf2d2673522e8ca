"""The plugins that are there without being installed: one concern each, made with the public hooks only.

`plugins` registers them first, so installed plugins come before them; each can be disabled by name.
"""

from __future__ import annotations

NAMES = ("run_log", "unknown_tool")
