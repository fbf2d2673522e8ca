"""`bf-plugin demo`: a gateway with a chat page, the plugin mounted on it and a simulated provider, in one process."""

from __future__ import annotations
