"""Which driver does what is being done: for telling who wrote, sent or asked."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from bf_plugin.run.driver import Drive


class Driver(NamedTuple):
    """A driver, by its run and the epoch in which it has it."""

    run_id: str
    epoch: int


DRIVING: ContextVar[Driver | None] = ContextVar("driving", default=None)


class NamedDrive(Drive):
    """The real driver, under its name."""

    async def run(self) -> None:
        DRIVING.set(Driver(self._record.id, self._record.epoch))
        await super().run()
