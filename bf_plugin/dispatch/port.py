"""The port between the use cases and whatever decides which process drives a run. Callable from any thread."""

from __future__ import annotations

from typing import Protocol

from bf_plugin.journal import Ending, RunRecord
from bf_plugin.run.ticket import Ticket
from bf_plugin.values import StopReason


class Dispatcher(Protocol):
    """Brings runs and signals to drivers."""

    owner: str
    """Names this process in the journal."""

    def active(self, app: str | None = None) -> int:
        """Return how many runs this process drives or is about to, of one app or of all."""
        ...

    def expect(self, record: RunRecord, ticket: Ticket) -> None:
        """Remember who waits for a run, before it is on record."""
        ...

    def forget(self, run_id: str) -> None:
        """Drop what `expect` remembered: the run was not accepted."""
        ...

    def submit(self, record: RunRecord) -> None:
        """Drive a run that is `starting`; one that is `queued` comes up when its thread is free."""
        ...

    def stop(self, record: RunRecord, ending: Ending, reason: StopReason) -> None:
        """Wake the driver of a run whose outcome is decided; see to it that it ends, queued or driven by nobody."""
        ...

    def answered(self, run_id: str, tool_call_id: str) -> None:
        """Wake the driver of a run: a page answered a tool call."""
        ...

    def start(self) -> None:
        """Take over what dead processes left, and watch for more. Called once, when all else is up."""
        ...

    def close(self) -> None:
        """Hand all runs over: stop driving, give up ownership."""
        ...
