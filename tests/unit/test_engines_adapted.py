"""Engines written without the port's base classes: they work, with the powers they have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from bf_plugin.engines.adapted import adapted
from bf_plugin.engines.port import Access, BaseEngine, Cursor, Handle, State, StepDone, StepRequest, Take
from bf_plugin.testing import ScriptedEngine
from bf_plugin.values import RunDraft, Usage

ACCESS = Access(api_key="sk-test")
ANY: Any = None


class PlainStream:
    def __init__(self) -> None:
        self.handle: Handle = {"response_id": "r"}

    async def read(self, take: Take) -> None:
        take([StepDone(state=None)])

    async def aclose(self) -> None: ...


class HeldStream(PlainStream):
    def __init__(self) -> None:
        super().__init__()
        self.held: list[bool] = []

    def hold(self, holding: bool) -> None:
        self.held.append(holding)


class PlainEngine:
    """As plugins were written before there was a base class."""

    def __init__(self, stream: PlainStream) -> None:
        self.stream = stream

    async def start(self, request: StepRequest, access: Access) -> PlainStream:
        return self.stream

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> PlainStream:
        return self.stream

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        return Usage(total_tokens=3)

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        return {"cut": True}

    async def aclose(self) -> None: ...


class AbleEngine(PlainEngine):
    """Has each optional power, still without a base class."""

    needs_key = True
    stateless = True

    def __init__(self) -> None:
        super().__init__(HeldStream())
        self.warm = False

    def warm_up(self) -> None:
        self.warm = True

    def check(self, run: RunDraft, access: Access) -> Sequence[str]:
        return ["a warning"]

    async def forget(self, names: Sequence[Handle], access: Access) -> bool:
        return True


def powers(engine: BaseEngine) -> tuple[object, ...]:
    engine.warm_up()
    forgotten = asyncio.run(engine.forget([], ACCESS))
    return engine.needs_key, engine.stateless, engine.can_forget, list(engine.check(ANY, ACCESS)), forgotten


def test_an_engine_of_the_base_class_is_used_as_it_is() -> None:
    """Nothing stands between the core and it."""
    engine = ScriptedEngine()
    assert adapted(engine) is engine
    assert powers(engine) == (False, False, False, [], False)


def test_a_plain_engine_has_no_optional_power() -> None:
    """Each of the defaults is there, and what the engine has is called."""
    engine = adapted(PlainEngine(PlainStream()))
    assert powers(engine) == (False, False, False, [], False)
    assert asyncio.run(engine.cancel({}, ACCESS)) == Usage(total_tokens=3)
    assert engine.cut(None, None) == {"cut": True}


def test_a_plain_engine_keeps_the_powers_it_has() -> None:
    """All of them."""
    plain = AbleEngine()
    assert powers(adapted(plain)) == (True, True, True, ["a warning"], True)
    assert plain.warm


def test_the_streams_of_a_plain_engine() -> None:
    """Both kinds can be told to hold; one that cannot goes on."""

    async def read(stream: PlainStream) -> tuple[Handle, int]:
        engine, ends = adapted(PlainEngine(stream)), list[Any]()
        for one in (await engine.start(ANY, ACCESS), await engine.resume({}, ANY, ACCESS)):
            one.hold(True)
            await one.read(ends.extend)
            await one.aclose()
        return one.handle, len(ends)

    held = HeldStream()
    assert asyncio.run(read(PlainStream())) == ({"response_id": "r"}, 2)
    assert asyncio.run(read(held)) == ({"response_id": "r"}, 2)
    assert held.held == [True, True]
