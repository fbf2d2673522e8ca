"""What must survive a process: threads, runs, messages, steps and calls. `usecases`, `dispatch` and `run` use it."""

from __future__ import annotations

from bf_plugin.journal.records import (
    CANCELLED,
    Cut,
    Ending,
    RunEnded,
    RunRecord,
    RunSpec,
    Secrets,
    ThreadBusy,
    UnknownThread,
)
from bf_plugin.journal.store import Journal, open_journal

__all__ = [
    "CANCELLED",
    "Cut",
    "Ending",
    "Journal",
    "RunEnded",
    "RunRecord",
    "RunSpec",
    "Secrets",
    "ThreadBusy",
    "UnknownThread",
    "open_journal",
]
