"""Makes harmless what commands print: it may come from a model, a plugin or a server."""

from __future__ import annotations


def harmless(text: str) -> str:
    """Replace what could command a terminal: models write names, arguments and text."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
