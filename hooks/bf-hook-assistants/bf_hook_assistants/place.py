"""What is known of a thread at the server: the engine's state, and the name of a run in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bf_plugin.engines.port import Handle, State
from bf_plugin.items import FunctionCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a thread of the server.

    `tail` is the newest message that belongs to the conversation: what lies behind it was left by a run that was cut
    off. `run` is the run that waits for `calls`, or that is being listened to; `answered` are the calls whose outputs
    it has.
    """

    server: str
    thread: str
    tail: str | None = None
    system: Sequence[str] = field(default=(), repr=False)
    resources: Mapping[str, Any] = field(default_factory=dict, repr=False)
    run: str | None = None
    calls: Sequence[FunctionCall] = field(default=(), repr=False)
    answered: Sequence[str] = ()

    def state(self, *, tail: str | None, calls: Sequence[FunctionCall]) -> State:
        """Return what to remember behind a step that ended at `tail`, with these calls to be answered."""
        run = self.run if calls else None
        return replace(self, tail=tail or self.tail, run=run, calls=calls, answered=()).as_json()

    def emptied(self) -> State:
        """Return the state of a thread in which nothing is worth keeping."""
        return Place(server=self.server, thread=self.thread, resources=self.resources).as_json()

    def handle(self) -> Handle:
        """Return the name of the run."""
        return {**self.as_json(), "response_id": self.run}

    def as_json(self) -> dict[str, Any]:
        """Return it as the journal keeps it."""
        return {
            "server": self.server,
            "thread": self.thread,
            "tail": self.tail,
            "system": list(self.system),
            "resources": dict(self.resources),
            "run": self.run,
            "calls": list(self.calls),
            "answered": list(self.answered),
        }

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Place:
        """Return what the journal has kept."""
        return cls(**{name: kept[name] for name in cls.__dataclass_fields__})
