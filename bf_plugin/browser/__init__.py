"""What a page needs: the handler of a run's events, and the same as BetterForms named actions.

The demo serves these files, operators copy them; nothing in the plugin's server side imports this package.
"""

from __future__ import annotations

from importlib import resources


def handler_source() -> str:
    """Return `handler.js`, plain JavaScript that defines `globalThis.BFAssistant`."""
    return (resources.files(__name__) / "handler.js").read_text(encoding="utf-8")
