"""The port between requests and whoever knows the apps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bf_plugin.settings import AssistantSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """An application, authenticated. `id` is its identity in the journal and says nothing about its key.

    `provider_keys` are the operator's, by provider. `allowed_*` say what may be used with one of those.
    """

    id: str
    api_key: str = field(repr=False)
    messaging_url: str | None = None
    provider_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    instructions: str | None = field(default=None, repr=False)
    assistants: Mapping[str, AssistantSettings] = field(default_factory=dict, repr=False)
    allowed_files: frozenset[str] = frozenset()
    allowed_vector_stores: frozenset[str] = frozenset()
    allowed_containers: frozenset[str] = frozenset()
    max_runs: int | None = None


class Apps(Protocol):
    """Knows the apps. Called in request threads; may block for up to 5 s."""

    def authenticate(self, api_key: str, environ: Mapping[str, Any]) -> App:
        """Return the app of a key. Raises RequestError 401 for an unknown key, 503 when that cannot be found out."""
        ...


def key_digest(api_key: str) -> str:
    """Return the identity of a key that has no name: a digest, since the key itself is never stored in the clear."""
    return "key-" + hashlib.sha256(b"bf_plugin app key\0" + api_key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
