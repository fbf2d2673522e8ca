"""The OpenAI engine against the provider simulator: state that the provider has lost, and another kind of state."""

from __future__ import annotations

import pytest

from bf_plugin.engines.openai import OpenAIEngine
from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.items import text_message
from bf_plugin.testing.provider import ProviderSimulator
from openai_talks import Sleeps, Talk, bodies, fails, operations, output_of, run


def test_an_expired_response(provider: ProviderSimulator) -> None:
    """The chain starts anew from the history, once."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        provider.fault("previous_response_expired", times=1)
        assert await talk.say("two") == "b"

    run(provider, play)
    assert len(bodies(provider)) == 3
    assert [item["role"] for item in bodies(provider)[-1]["input"]] == ["user", "assistant", "user"]


def test_a_deleted_conversation(provider: ProviderSimulator) -> None:
    """A new one is made of the history."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        dict.clear(provider.conversations)  # type: ignore[arg-type]
        assert await talk.say("two") == "b"

    run(provider, play, state_mode="conversation")
    [conversation] = provider.conversations.values()
    assert len(conversation.items) == 4


def test_a_long_history_enters_a_conversation_in_blocks(provider: ProviderSimulator) -> None:
    """At most twenty items a request; broken pairs in it are made whole."""
    provider.brain = lambda request: str(len(request.context))

    async def play(talk: Talk) -> None:
        for number in range(22):
            talk.items += [text_message("user", f"q{number}"), text_message("assistant", f"a{number}")]
        talk.items += [{"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}]
        talk.items += [output_of("call_unknown")]
        talk.covered = len(talk.items)
        assert await talk.say("now") == "47"

    run(provider, play, state_mode="conversation")
    assert operations(provider) == ["conversations.create", "items.create", "items.create", "create"]
    assert [len(request.body["items"]) for request in provider.requests[:3]] == [20, 20, 6]


def test_a_server_without_conversations(provider: ProviderSimulator) -> None:
    """Chained responses do instead, and it is not asked again."""
    provider.fault("no_conversations")
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.say("two")

    run(provider, play, state_mode="conversation")
    assert operations(provider) == ["conversations.create", "create", "create"]
    assert "previous_response_id" in bodies(provider)[-1]


def test_a_locked_conversation(provider: ProviderSimulator) -> None:
    """Three waits, then a conflict."""
    sleeps = Sleeps()
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        provider.fault("conversation_locked", times=2)
        assert await talk.say("two") == "b"
        assert sleeps.asked == [1.0, 2.0]
        provider.fault("conversation_locked")
        problem = await fails(talk.say("three"))
        assert (problem.status, problem.code) == (409, "conversation_locked")
        assert sleeps.asked == [1.0, 2.0, 1.0, 2.0, 4.0]

    run(provider, play, state_mode="conversation", timeouts=Timeouts(sleep=sleeps))


@pytest.mark.parametrize(("before", "after"), [("responses", "conversation"), ("conversation", "responses")])
def test_another_state_mode(provider: ProviderSimulator, before: str, after: str) -> None:
    """A thread whose state is of the other kind goes on from its history."""
    provider.brain = lambda request: ", ".join(request.user_texts)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.engine.aclose()
        talk.engine = OpenAIEngine(state_mode=after)  # type: ignore[arg-type]
        assert await talk.say("two") == "one, two"
        await talk.engine.aclose()

    run(provider, play, state_mode=before)
