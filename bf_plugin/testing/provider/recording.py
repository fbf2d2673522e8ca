"""What tests look at afterwards: the requests as they came."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def digest(key: str) -> str:
    """Return what stands for a key wherever the key itself must not be."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One request. `body` is the parsed JSON, None without one; header names are in lower case."""

    method: str
    path: str
    operation: str | None
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any
    key: str | None = field(repr=False)

    @property
    def key_digest(self) -> str | None:
        """Return what identifies the key without telling it."""
        return None if self.key is None else digest(self.key)


def redacted(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers fit for an error message of a test."""
    shown = {name.lower(): value for name, value in headers.items()}
    if "authorization" in shown:
        shown["authorization"] = "[redacted]"
    return shown
