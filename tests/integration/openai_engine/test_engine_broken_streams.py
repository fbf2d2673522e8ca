"""The OpenAI engine against the provider simulator: streams that break are resumed, polled or reported lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.openai.transcript import LOST, Transcript
from bf_plugin.engines.port import Event, StepDone, Text
from bf_plugin.items import text_message
from bf_plugin.testing.provider import Gate, ProviderSimulator, call, reasoning, text, words
from openai_talks import KEY, SENTENCE, Sleeps, Talk, fails, operations, run, spoken

DROPS: list[tuple[str, dict[str, Any]]] = [
    ("stream_drops", {}),
    ("stream_ends", {}),
    ("stream_drops", {"after": 6}),
    ("stream_drops", {"after_bytes": 2500}),
    ("stream_hangs", {"after": 8}),
    ("stream_hangs", {"after": 8, "keepalive": 0.05}),
]


@pytest.mark.parametrize(("fault", "arguments"), DROPS)
def test_a_broken_stream_is_resumed(provider: ProviderSimulator, fault: str, arguments: dict[str, Any]) -> None:
    """Dropped, ended early or silent: the response goes on where it was, each character once."""
    provider.fault(fault, times=1, on="create", **arguments)
    provider.script([words(SENTENCE), call("look")])

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert said == SENTENCE
        assert len(done.calls) == 1

    run(provider, play, timeouts=Timeouts(silence=0.3))
    assert operations(provider) == ["create", "resume"]


@pytest.mark.parametrize(
    ("fault", "arguments"),
    [
        ("plain_resume", {}),
        ("resume_expired", {}),
        ("resume_expired", {"status": 404}),
        ("resume_shifted", {"repeat": False}),
        ("resume_shifted", {"repeat": True}),
        ("resume_shifted", {"repeat": True, "renumber": True}),
        ("resume_shifted", {"repeat": True, "renumber": True, "skip": 0}),
        ("stream_drops", {"on": "resume", "after": 2}),
        ("stream_drops", {"on": "resume", "after": 0}),
        ("drop", {"on": "resume"}),
        ("status", {"on": "resume", "status": 500}),
        ("no_sequence_numbers", {}),
        ("sequence_from_one", {}),
        ("no_text_done", {}),
        ("unknown_events", {}),
        ("null_conversation", {}),
        ("output_when_done", {}),
        ("lone_surrogates", {}),
        ("no_usage", {}),
    ],
)
@pytest.mark.parametrize("after", [6, 12, 25])
def test_resuming_at_odd_servers(
    provider: ProviderSimulator, fault: str, arguments: dict[str, Any], after: int
) -> None:
    """Whatever the second connection does, each character comes once and the response ends."""
    provider.fault("stream_drops", times=1, on="create", after=after)
    provider.fault(fault, **arguments)
    provider.script([reasoning("hm"), words(SENTENCE), text("And ", "more.")])

    async def play(talk: Talk) -> None:
        assert (await talk.step(text_message("user", "one")))[0] == SENTENCE + "And more."
        assert len([item for item in talk.items if item["type"] == "message" and item["role"] == "assistant"]) == 2

    run(provider, play)


@pytest.mark.parametrize("seed", range(4))
def test_any_chunks(provider: ProviderSimulator, seed: int) -> None:
    """However the network cuts the stream."""
    provider.fault("chunking", seed=seed)
    provider.fault("lone_surrogates")
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play)


@pytest.mark.parametrize("fault", ["resume_expired", "plain_resume"])
def test_a_server_that_cannot_resume_is_asked_once(provider: ProviderSimulator, fault: str) -> None:
    """Then it is polled."""
    provider.fault("stream_drops", times=1, on="create", after=6)
    provider.fault(fault)
    gate = Gate()
    sleeps = Sleeps()
    sleeps.instead = lambda: gate.release() if operations(provider).count("retrieve") else None
    provider.script(text("one ", "two ", gate, "three"))

    async def play(talk: Talk) -> None:
        assert await talk.say("go") == "one two three"

    run(provider, play, timeouts=Timeouts(sleep=sleeps))
    assert operations(provider)[:3] == ["create", "resume", "retrieve"]
    assert set(operations(provider)[3:]) <= {"retrieve"}


def test_polling_survives_errors(provider: ProviderSimulator) -> None:
    """A poll that fails for now is repeated."""
    provider.fault("stream_drops", times=1, on="create", after=8)
    provider.fault("plain_resume")
    provider.fault("status", on="retrieve", times=4)
    provider.script(words(SENTENCE), "again")

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play)


def test_polling_brings_text_while_the_response_goes_on(provider: ProviderSimulator) -> None:
    """A server that cannot resume is asked every two seconds, and each answer's new text goes out."""
    gate = Gate()
    provider.fault("stream_drops", times=1, on="create", after=6)
    provider.fault("plain_resume")
    provider.script(text("one ", "two ", "three ", gate, "four"))
    sleeps = Sleeps()

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "go"))
        events: list[Event] = []

        def take(batch: Sequence[Event]) -> None:
            events.extend(batch)
            if spoken(events).endswith("three "):
                assert not isinstance(events[-1], StepDone)
                sleeps.instead = gate.release

        await stream.read(take)
        assert spoken(events) == "one two three four"
        await stream.aclose()

    run(provider, play, timeouts=Timeouts(sleep=sleeps))
    assert 2.0 in sleeps.asked


@pytest.mark.parametrize(
    ("faults", "options"),
    [
        (["no_retrieve"], {}),
        ([], {"background": "off"}),
        ([], {"state_mode": "local"}),
    ],
)
def test_a_lost_response(provider: ProviderSimulator, faults: list[str], options: dict[str, Any]) -> None:
    """Where nothing can be read any more, what was read goes out and the loss is told."""
    for fault in faults:
        provider.fault(fault)
    provider.fault("stream_drops", on="create", after=7)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        await talk.start(text_message("user", "one"))
        said, problem = await talk.broken()
        assert problem.code == LOST
        assert said
        assert SENTENCE.startswith(said)

    run(provider, play, **options)


def test_a_foreground_response_that_survives_is_polled(provider: ProviderSimulator) -> None:
    """Some servers finish what nobody listens to."""
    provider.fault("stream_drops", on="create", after=7, goes_on=True)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play, background="off")


def test_a_stream_that_ends_before_its_response_is_named(provider: ProviderSimulator) -> None:
    """Nothing can be followed, and nothing is asked again."""
    provider.fault("stream_ends", on="create", after=0)

    async def play(talk: Talk) -> None:
        assert (await fails(talk.say("one"))).code == LOST

    run(provider, play)
    assert operations(provider) == ["create"]


@pytest.mark.parametrize("fault", ["no_created", "incomplete_completed", "output_when_done", "no_text_done"])
def test_odd_but_whole_streams(provider: ProviderSimulator, fault: str) -> None:
    """Nothing breaks, something is missing."""
    provider.fault(fault)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert said == SENTENCE
        assert ("length" if fault == "incomplete_completed" else "stop") == done.finish_reason

    run(provider, play)


def test_no_usage_is_estimated(provider: ProviderSimulator) -> None:
    """Marked as such."""
    provider.fault("no_usage")
    provider.script("12345678")

    async def play(talk: Talk) -> None:
        _, done = await talk.step(text_message("user", "1234"))
        assert (done.usage.estimated, done.usage.completion_tokens) == (True, 2)

    run(provider, play)


def test_a_stream_made_from_a_cursor(provider: ProviderSimulator) -> None:
    """Another process that knows the cursor and the text goes on from there."""
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        first = await talk.start(text_message("user", "one"))
        events = await talk.events()
        await first.aclose()
        known = [event for event in events if isinstance(event, Text)][:4]
        transcript = Transcript({known[-1].part: spoken(known)})
        client = await talk.engine._clients.take(talk.access)
        reader = Reader(dict(first.handle), key=KEY, prompt=0, transcript=transcript, cursor=known[-1].sequence)
        talk.stream = ResponseStream(
            reader,
            api=talk.engine._api(client, talk.access),
            timeouts=Timeouts(),
            release=lambda: talk.engine._clients.release(client),
        )
        assert spoken(known) + spoken(await talk.events()) == SENTENCE
        await talk.stream.aclose()

    run(provider, play)
