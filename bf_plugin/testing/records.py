"""Runs as the journal takes them, for tests below the HTTP interface."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from bf_plugin.items import text_message
from bf_plugin.journal import Journal, RunRecord, RunSpec, Secrets
from bf_plugin.journal.records import Sealed
from bf_plugin.runtime.ids import new_run_id, new_thread_id


def seal(journal: Journal, run: RunRecord, *messages: Sealed, epoch: int = 1, closing: bool = False) -> None:
    """Seal messages as a driver of the run does, and wait until they are committed. Raises what a driver would get."""

    async def on_a_loop() -> None:
        log = journal.log.of(run.id, epoch)
        await asyncio.gather(*[log.seal(message, closing=closing) for message in messages])

    asyncio.run(on_a_loop())


_SPEC: Mapping[str, Any] = {
    "provider": "scripted",
    "base_url": None,
    "operator_key": False,
    "model": "m",
    "instructions": None,
    "tools": (),
    "metadata": {},
    "options": {},
    "stream": True,
    "action_name": "handle",
    "channels": ("c",),
}


def a_run(*, spec: Mapping[str, Any] | None = None, **changes: Any) -> RunRecord:
    """Return a run that says hello on a new thread of app `app`; `spec` and `changes` say what is different."""
    asked = {**_SPEC, "messages": [text_message("user", "hello")], **(spec or {})}
    values: dict[str, Any] = {
        "id": new_run_id(),
        "thread_id": new_thread_id(),
        "app": "app",
        "owner": "me",
        "created_at": time.time(),
        "spec": RunSpec(**{**asked, "tools": list(asked["tools"]), "channels": list(asked["channels"])}),
        "secrets": Secrets(app_key="BFAPI_k", provider_key="sk-secret"),
    }
    return RunRecord(**{**values, **changes})
