"""What a check needs around a plugin: an event loop, worker threads, contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bf_plugin.runtime.workers import Workers
from bf_plugin.settings import Settings
from bf_plugin.testing.contexts import Contexts


class Bench:
    """The loop and the threads are there while it is entered; the rest is what `check_plugin` was asked for."""

    def __init__(
        self, section: Mapping[str, Any], draft: Mapping[str, Any], texts: Sequence[str], examples: int
    ) -> None:
        self.section = section
        self.draft = draft
        self.texts = texts
        self.examples = examples
        self.contexts = Contexts()

    def __enter__(self) -> Bench:
        self.workers = Workers("bf-check", limit=4)
        self.contexts.__enter__()
        self.loop = self.contexts.loop
        return self

    def __exit__(self, *exc: object) -> None:
        self.contexts.__exit__(*exc)
        self.workers.close()

    def fields(self, name: str) -> dict[str, Any]:
        """Return what a context holds besides what a mount lends."""
        return {"name": name, "section": self.section, "settings": Settings()}
