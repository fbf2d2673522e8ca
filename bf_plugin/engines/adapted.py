"""Engines that do not inherit the port's base classes are given the powers they lack. No other place looks for them."""

from __future__ import annotations

from typing import Any

from bf_plugin.engines.port import (
    Access,
    BaseEngine,
    BaseStream,
    Cursor,
    Engine,
    Handle,
    State,
    StepRequest,
    Stream,
    Take,
)
from bf_plugin.values import Usage

_OPTIONAL = ("needs_key", "stateless", "warm_up", "check", "forget")


def adapted(engine: Engine) -> BaseEngine:
    """Return the engine itself if it has all powers, else one that has and calls it."""
    return engine if isinstance(engine, BaseEngine) else _AdaptedEngine(engine)


class _AdaptedEngine(BaseEngine):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        for name in _OPTIONAL:
            if hasattr(engine, name):
                setattr(self, name, getattr(engine, name))

    @property
    def can_forget(self) -> bool:
        return hasattr(self._engine, "forget")

    async def start(self, request: StepRequest, access: Access) -> BaseStream:
        return _adapted_stream(await self._engine.start(request, access))

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> BaseStream:
        return _adapted_stream(await self._engine.resume(handle, cursor, access))

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        return await self._engine.cancel(handle, access)

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        return self._engine.cut(state, handle)

    async def aclose(self) -> None:
        await self._engine.aclose()


def _adapted_stream(stream: Stream) -> BaseStream:
    return stream if isinstance(stream, BaseStream) else _AdaptedStream(stream)


class _AdaptedStream(BaseStream):
    def __init__(self, stream: Stream) -> None:
        self._stream: Any = stream
        self._hold = getattr(stream, "hold", None)

    @property
    def handle(self) -> Handle:  # type: ignore[override]  # an engine may learn more of it while it reads
        handle: Handle = self._stream.handle
        return handle

    async def read(self, take: Take) -> None:
        await self._stream.read(take)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def hold(self, holding: bool) -> None:
        if self._hold is not None:
            self._hold(holding)
