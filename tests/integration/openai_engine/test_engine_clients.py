"""The OpenAI engine against the provider simulator: clients and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bf_plugin.engines.openai import OpenAIEngine
from bf_plugin.engines.openai.clients import Clients
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.port import Access
from bf_plugin.testing.provider import ProviderSimulator
from openai_talks import Talk, run


def test_clients_are_few_and_closed_when_idle(provider: ProviderSimulator) -> None:
    """One per key, the least recently used first to go, never one in use."""
    now = [0.0]

    async def main() -> None:
        clients = Clients(size=2, idle=10.0, clock=lambda: now[0])
        access = [Access(api_key=f"sk-{number}", base_url=provider.base_url) for number in range(4)]
        first = await clients.take(access[0])
        assert first is await clients.take(access[0])
        clients.release(first)
        second = await clients.take(access[1])
        clients.release(second)
        third = await clients.take(access[2])
        assert len(clients._clients) == 2
        assert first is await clients.take(access[0])
        clients.release(first)
        clients.release(first)
        clients.release(third)
        now[0] = 20.0
        fourth = await clients.take(access[3])
        assert [fourth] == list(clients._clients.values())
        clients.release(fourth)
        await clients.aclose()

    asyncio.run(main())


def test_a_run_that_only_streams_makes_no_sdk_client(provider: ProviderSimulator) -> None:
    """A caller with a key of its own does not wait for what only other calls need; those make one, once."""
    provider.brain = lambda request: "ok"

    async def play(talk: Talk) -> None:
        await talk.say("one")
        client = await talk.engine._clients.take(talk.access)
        assert client._sdk is None
        first, second = await asyncio.gather(client.sdk(), client.sdk())
        assert first is second
        talk.engine._clients.release(client)

    run(provider, play, state_mode="responses")


def test_each_key_is_used_for_its_own_requests_only(provider: ProviderSimulator) -> None:
    """Many threads at once, each with a key of its own."""
    provider.brain = lambda request: request.user_texts[-1]

    async def main() -> None:
        engine = OpenAIEngine()
        talks = [Talk(engine, Access(api_key=f"sk-{number:016}", base_url=provider.base_url)) for number in range(8)]
        answers = await asyncio.gather(*(talk.say(talk.access.api_key) for talk in talks for _ in (1,)))
        assert [talk.access.api_key for talk in talks] == answers
        await engine.aclose()

    asyncio.run(main())
    for request in provider.requests:
        assert request.key == request.body["input"][0]["content"][0]["text"]


def test_a_connection_is_used_again(provider: ProviderSimulator) -> None:
    """A step that was read to its end leaves its connection to those after it, once its body has ended too."""
    kept: list[int] = []
    provider.fault("chunking", size=100_000, delay=0.03)
    provider.brain = lambda request: "ok"

    async def play(talk: Talk) -> None:
        for sentence in ("one", "two", "three"):
            await talk.say(sentence)
        client = next(iter(talk.engine._clients._clients.values()))
        assert client.wire._session is not None
        connector: Any = client.wire._session.connector
        kept.append(sum(len(idle) for idle in connector._conns.values()))

    run(provider, play)
    assert kept[0] <= 2


def test_nothing_is_opened_once_the_engine_is_closed(provider: ProviderSimulator) -> None:
    """A cancel that comes late is refused: a session made for it would stay open for ever."""
    provider.brain = lambda request: "ok"

    async def play(talk: Talk) -> None:
        await talk.say("one")
        client = await talk.engine._clients.take(talk.access)
        await talk.engine.aclose()
        with pytest.raises(Problem, match="cannot be reached"):
            await client.wire.ask("POST", "/responses", headers={}, timeout=5, body={})
        with pytest.raises(Problem, match="are closed"):
            await client.sdk()
        with pytest.raises(Problem, match="are closed"):
            await talk.engine._clients.take(talk.access)

    run(provider, play, state_mode="responses")
