"""The OpenAI engine against the provider simulator: a thread goes on after a turn that was cut anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.openai.repair import UNKNOWN_RESULT
from bf_plugin.items import Item, text_message
from bf_plugin.testing.provider import BrainRequest, Gate, ProviderSimulator, call, text
from openai_talks import MODES, Sleeps, Talk, bodies, first, operations, output_of, run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", [None, "commit_on_cut", "cancel_completes", "cancel_hangs_stream"])
def test_a_thread_goes_on_after_a_stop(provider: ProviderSimulator, mode: str, fault: str | None) -> None:
    """Whatever a cut response left at the provider, the next turn has each message once."""
    gate = Gate()
    contexts: list[list[str]] = []

    def brain(request: BrainRequest) -> str:
        contexts.append(request.user_texts)
        return "fine"

    provider.brain = brain
    provider.script("Hello", text("Well ", "then ", gate, "you see"))
    if fault:
        provider.fault(fault)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        stream = await talk.start(text_message("user", "two"))
        await first(stream)
        await talk.cut(text_message("assistant", "Well "))
        gate.release()
        assert await talk.say("three") == "fine"
        assert await talk.say("four") == "fine"

    run(provider, play, state_mode=mode)
    assert contexts == [["one", "two", "three"], ["one", "two", "three", "four"]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("commit_on_cut", {})],
        [("commit_on_cut", {"calls": False})],
        [("call_not_committed", {})],
        [("commit_late", {"seconds": 0.2})],
        [("commit_late", {"seconds": 0.2, "locked": True})],
        [("endless_pages", {})],
    ],
)
@pytest.mark.parametrize("moment", ["before the end", "after the call", "during the outputs"])
def test_a_tool_turn_cut_off_anywhere(
    provider: ProviderSimulator, mode: str, faults: list[tuple[str, dict[str, Any]]], moment: str
) -> None:
    """Neither a call without output nor an output without call stops the thread."""
    gate = Gate()
    provider.brain = lambda request: "fine"
    called = call("look", call_id="call_1")
    if moment == "before the end":
        provider.script("Hello", [called, text("x", gate)])
    elif moment == "after the call":
        provider.script("Hello", called)
    else:
        provider.script("Hello", called, text("found", gate))
    for name, arguments in faults:
        provider.fault(name, **arguments)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        made: Item = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
        closed = output_of("call_1", "stopped before its result was known")
        if moment == "before the end":
            stream = await talk.start(text_message("user", "two"))
            await first(stream)
            await talk.cut(made, closed)
        else:
            await talk.step(text_message("user", "two"))
            if moment == "after the call":
                talk.items.append(closed)
            else:
                stream = await talk.start(output_of("call_1"))
                await first(stream)
                await talk.cut()
        gate.release()
        assert await talk.say("three") == "fine"
        assert await talk.say("four") == "fine"

    run(provider, play, state_mode=mode, timeouts=Timeouts(lock_waits=(0.1, 0.2, 0.4)))


def test_a_response_that_goes_on_after_a_cut_is_waited_for(provider: ProviderSimulator) -> None:
    """What it still commits must be known before the next turn is sent."""
    gate = Gate()
    sleeps = Sleeps()
    sleeps.instead = gate.release
    provider.brain = lambda request: f"{len(request.context)} items"
    provider.script("Hello", text("Well ", gate, "then"))

    async def play(talk: Talk) -> None:
        await talk.say("one")
        stream = await talk.start(text_message("user", "two"))
        await first(stream)
        await talk.cut(text_message("assistant", "Well "), cancel=False)
        assert await talk.say("three") == "5 items"

    run(provider, play, state_mode="conversation", timeouts=Timeouts(sleep=sleeps))
    assert sleeps.asked[0] == 1.0
    assert operations(provider)[3:5] == ["retrieve", "retrieve"]
    assert operations(provider)[-2:] == ["items.list", "create"]


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_a_call_the_state_does_not_know(provider: ProviderSimulator, mode: str) -> None:
    """The provider names the call it misses an output for, and gets one."""
    provider.script(call("look", call_id="call_1"), "fine")

    async def play(talk: Talk) -> None:
        await talk.step(text_message("user", "one"))
        talk.state = {name: value for name, value in (talk.state or {}).items() if name != "calls"}
        assert await talk.say("two") == "fine"

    run(provider, play, state_mode=mode)
    last = bodies(provider)[-1]["input"]
    assert last[0] == {"type": "function_call_output", "call_id": "call_1", "output": UNKNOWN_RESULT}
    assert len(bodies(provider)) == 3


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_several_calls_the_state_does_not_know(provider: ProviderSimulator, mode: str) -> None:
    """The second complaint of a kind makes the step start over from the history."""
    provider.script([call("look", call_id="call_1"), call("look", call_id="call_2")], "fine")

    async def play(talk: Talk) -> None:
        await talk.step(text_message("user", "one"))
        talk.state = {name: value for name, value in (talk.state or {}).items() if name != "calls"}
        assert await talk.say("two") == "fine"

    run(provider, play, state_mode=mode)
    assert {"responses": 0, "conversation": 2}[mode] == len(provider.conversations)


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_an_output_the_provider_has_no_call_for(provider: ProviderSimulator, mode: str) -> None:
    """It is dropped, or the step starts over where nothing else is to be said."""
    provider.script("Hello", "fine", "fine")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        talk.state = {**(talk.state or {}), "calls": ["call_1"]}
        assert (await talk.step(output_of("call_1"), text_message("user", "two")))[0] == "fine"
        talk.state = {**(talk.state or {}), "calls": ["call_2"]}
        assert (await talk.step(output_of("call_2")))[0] == "fine"

    run(provider, play, state_mode=mode)
    assert len(bodies(provider)) == 5
