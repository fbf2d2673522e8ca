"""What one run asks of its provider: through an engine, with a key, and at most one response at a time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bf_plugin.engines.port import (
    Access,
    BaseEngine,
    BaseStream,
    Cursor,
    Event,
    Handle,
    State,
    StepDone,
    StepRequest,
    Text,
)
from bf_plugin.journal.records import RunRecord, shared
from bf_plugin.runtime.logs import RunLogger
from bf_plugin.runtime.loop import unbroken
from bf_plugin.values import Usage

_CREATE_TIMEOUT = 10.0
"""Seconds to wait, after a stop during a create, for the response's name: without it nothing can be cancelled."""

_CANCEL_TIMEOUT = 30.0
"""Seconds a cancel may take in all: the plugins that are told of the end wait for it."""


class Exchange:
    """The requests of one run to its provider, with at most one response under way.

    `engine` is None where it is not installed. `key` tells whose state it is that the provider leaves in the thread.
    """

    def __init__(self, record: RunRecord, engine: BaseEngine | None, log: RunLogger) -> None:
        self._name = record.spec.provider
        self._engine = engine
        self._access = access_of(record)
        self._log = log
        self._starting: asyncio.Future[BaseStream] | None = None
        self.key = engine_key(self._name, self._access)

    async def start(self, request: StepRequest) -> BaseStream:
        """Ask for a response. Raises ProviderError."""
        return await self._begin(self._installed().start(request, self._access))

    async def resume(self, handle: Handle, cursor: Cursor) -> BaseStream:
        """Follow a response that an earlier driver asked for. Raises ProviderError."""
        return await self._begin(self._installed().resume(handle, cursor, self._access))

    async def read(self, stream: BaseStream, say: Callable[[Text], None]) -> StepDone:
        """Hand the text of a response to `say` as it comes; return how it ended. Raises ProviderError."""
        ends: list[StepDone] = []

        def take(events: Sequence[Event]) -> None:
            for event in events:
                if isinstance(event, Text):
                    say(event)
                else:
                    ends.append(event)

        await stream.read(take)
        await stream.aclose()
        self._starting = None
        if not ends:
            raise RuntimeError(f"engine {self._name} ended a stream without a StepDone")
        return ends[-1]

    async def cancel(self, handle: Handle | None) -> Usage | None:
        """Cancel the response under way, by default the one of `handle`; return its usage if reported.

        Raises nothing: the run has its outcome, whatever the provider answers.
        """
        if self._engine is None:
            return None
        try:
            return await asyncio.wait_for(self._cancel(self._engine, handle), _CANCEL_TIMEOUT)
        except Exception as error:
            self._log.info("cannot cancel the provider's response: %s: %s", type(error).__name__, error)
            return None

    def cut(self, parent: State | None, handle: Handle | None) -> State | None:
        """Return the state to keep for a thread whose step was cut off."""
        try:
            return self._engine.cut(parent, handle) if self._engine else None
        except Exception as error:  # the next step starts from the history then; this one still has to end
            self._log.error("engine %s cannot cut a step", self._name, error=error)
            return None

    async def let_go(self) -> None:
        """Close the connection to the provider, whatever it does."""
        if self._starting is None:
            return
        if not self._starting.done():
            self._starting.cancel()
        elif not self._starting.cancelled() and self._starting.exception() is None:
            try:
                await self._starting.result().aclose()
            except Exception as error:  # an engine's matter: the run is over
                self._log.warning("cannot close a connection to the provider", error=error)

    async def _begin(self, starting: Coroutine[Any, Any, BaseStream]) -> BaseStream:
        """Await a stream. The request goes on if this task is cancelled: only its answer tells what to cancel."""
        self._starting = asyncio.ensure_future(starting)
        return await unbroken(self._starting)

    async def _cancel(self, engine: BaseEngine, handle: Handle | None) -> Usage | None:
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=_CREATE_TIMEOUT)
            if not self._starting.done() or self._starting.cancelled():
                return None
            stream = self._starting.result()
            handle = stream.handle
            await stream.aclose()
        return None if handle is None else await engine.cancel(handle, self._access)

    def _installed(self) -> BaseEngine:
        if self._engine is None:
            raise LookupError(f"no engine is installed for provider {self._name}")
        return self._engine


def access_of(record: RunRecord) -> Access:
    """Return whose key a run's provider is asked with, and where."""
    return Access(api_key=record.secrets.provider_key if record.secrets else "", **shared(record.spec, Access))


def engine_key(provider: str, access: Access) -> str:
    """Return whose state a thread holds: a digest of engine, base URL and key."""
    parts = "\0".join((provider, access.base_url or "", access.api_key))
    return hashlib.sha256(b"bf_plugin engine\0" + parts.encode()).hexdigest()
