"""The OpenAI engine against the provider simulator: cancelled and closed responses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bf_plugin.engines.port import Event
from bf_plugin.items import text_message
from bf_plugin.testing.provider import Gate, ProviderSimulator, reply, text
from openai_talks import Talk, first, operations, run, spoken


def test_who_stops_reading_hears_nothing_more(provider: ProviderSimulator) -> None:
    """A stream whose reader was cancelled hands nothing on, though its connection is not closed yet."""
    gate = Gate()
    provider.script(text("Hel", gate, "lo"))
    heard: list[Event] = []

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        reading = asyncio.ensure_future(stream.read(heard.extend))
        while not heard:
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        gate.release()
        reply = stream._reply
        while reply is not None and not reply._response.content.is_eof():
            await asyncio.sleep(0.001)
        assert spoken(heard) == "Hel"
        await stream.aclose()

    run(provider, play)


def test_cancelling(provider: ProviderSimulator) -> None:
    """A running response stops; asked again, or about one that is over or unknown, nothing happens."""
    gate = Gate()
    provider.script(text("Hel", gate, "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        await first(stream)
        await stream.aclose()
        for _ in range(2):
            await talk.engine.cancel(stream.handle, talk.access)
        assert None is await talk.engine.cancel({**stream.handle, "response_id": "resp_unknown"}, talk.access)

    run(provider, play)
    [record] = provider.responses.values()
    assert record.status == "cancelled"


def test_cancelling_a_completed_response_tells_its_usage(provider: ProviderSimulator) -> None:
    """The answer is 400 "Cannot cancel"; the usage is read instead."""
    provider.script(reply("Hi", usage=(3, 4)))

    async def play(talk: Talk) -> None:
        await talk.say("one")
        assert talk.stream is not None
        usage = await talk.engine.cancel(talk.stream.handle, talk.access)
        assert usage is not None
        assert usage.total_tokens == 7

    run(provider, play)
    assert operations(provider) == ["create", "cancel", "retrieve"]


@pytest.mark.parametrize("fault", ["no_cancel", "no_retrieve", "drop", "status"])
def test_cancelling_never_raises(provider: ProviderSimulator, fault: str) -> None:
    """Whatever the provider answers, the run is over for us."""
    provider.script("Hi")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        where: dict[str, Any] = {"on": "*"} if fault in ("drop", "status") else {}
        provider.fault(fault, **where)
        assert talk.stream is not None
        await talk.engine.cancel(talk.stream.handle, talk.access)

    run(provider, play)


def test_a_foreground_response_is_cut_by_closing(provider: ProviderSimulator) -> None:
    """There is nothing to ask for."""
    provider.script(text("Hel", Gate(), "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        await stream.aclose()
        assert None is await talk.engine.cancel(stream.handle, talk.access)

    run(provider, play, background="off")
    assert operations(provider) == ["create"]


def test_closing_while_somebody_reads(provider: ProviderSimulator) -> None:
    """The reader is let go; it neither reconnects nor hangs."""
    provider.script(text("Hel", Gate(), "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        reading = asyncio.ensure_future(talk.events())
        await asyncio.sleep(0.05)
        await stream.aclose()
        assert spoken(await asyncio.wait_for(reading, 5)) == "Hel"

    run(provider, play)
    assert operations(provider) == ["create"]
