"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from bf_plugin.runtime.logs import conceal

Part = Literal["settings", "plugins", "database", "provider", "messaging"]
Status = Literal["ok", "failed", "skipped"]

PARTS: tuple[Part, ...] = ("settings", "plugins", "database", "provider", "messaging")
"""In the order in which they are looked at: each may need those before it."""

_SHORT = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `advice` says what to do about a failure where `text` does not say it already."""

    part: Part
    status: Status
    text: str
    advice: str | None = None

    def without(self, secrets: Iterable[str]) -> Finding:
        """Return the finding without secrets that something else's error may have quoted.

        Those shorter than six characters stay: they are no secrets, and would blot out words.
        """
        hidden = [secret for secret in secrets if len(secret) >= _SHORT]
        advice = None if self.advice is None else conceal(self.advice, hidden)
        return replace(self, text=conceal(self.text, hidden), advice=advice)


def ok(part: Part, text: str) -> Finding:
    """Return the finding that something works."""
    return Finding(part, "ok", text)


def failed(part: Part, text: str, advice: str | None = None) -> Finding:
    """Return the finding that something does not work."""
    return Finding(part, "failed", text, advice)


def skipped(part: Part, text: str) -> Finding:
    """Return the finding that something could not be found out, with the reason."""
    return Finding(part, "skipped", text)


def shown(url: str) -> str:
    """Return a URL without user, password and query: what an operator may read aloud."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")
