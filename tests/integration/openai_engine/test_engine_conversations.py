"""The OpenAI engine against the provider simulator: what each kind of state sends, and what comes back."""

from __future__ import annotations

import pytest

from bf_plugin.items import text_message
from bf_plugin.testing.provider import (
    BrainRequest,
    ProviderSimulator,
    call,
    incomplete,
    reasoning,
    refusal,
    reply,
    text,
    words,
)
from openai_talks import MODES, SENTENCE, TOOL, Talk, bodies, output_of, run


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_a_conversation_with_tools(provider: ProviderSimulator, mode: str) -> None:
    """Two turns with parallel calls in between; the model sees everything, each mode in its own way."""
    seen: list[list[str]] = []

    def brain(request: BrainRequest) -> str:
        seen.append(request.user_texts)
        return "ok"

    provider.script("Hello", [call("look", {"at": 1}), call("look", {"at": 2})], words(SENTENCE))
    provider.brain = brain

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == "Hello"
        _, done = await talk.step(text_message("user", "two"))
        assert [made["arguments"] for made in done.calls] == ['{"at": 1}', '{"at": 2}']
        assert (
            (end := await talk.step(*(output_of(made["call_id"]) for made in done.calls)))[0],
            end[1].finish_reason,
        ) == (SENTENCE, "stop")
        assert await talk.say("three") == "ok"

    run(provider, play, state_mode=mode)

    assert seen == [["one", "two", "three"]]
    conversations = {"conversation": 1}.get(mode, 0)
    assert conversations == len(provider.conversations)
    assert [mode != "local"] * 4 == [body["store"] for body in bodies(provider)]
    assert [None if mode == "local" else True] * 4 == [body.get("background") for body in bodies(provider)]
    assert {"req_mine"} == {request.headers["x-client-request-id"] for request in provider.requests}


def test_what_each_mode_sends(provider: ProviderSimulator) -> None:
    """Only the new items where the provider keeps the rest; instructions and tools each time; no obfuscation."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.say("two")

    run(provider, play)

    first, second = bodies(provider)
    assert {
        "model": "gpt-6-astra",
        "instructions": "Be brief.",
        "tools": [{**TOOL, "strict": False}],
        "stream": True,
        "store": True,
        "background": True,
        "stream_options": {"include_obfuscation": False},
        "previous_response_id": next(iter(provider.responses)),
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]}],
    } == second
    assert "previous_response_id" not in first


def test_pictures_files_and_a_schema_pass_the_provider_s_checks(provider: ProviderSimulator) -> None:
    """What is mapped is what the provider takes."""
    provider.script("{}")

    async def play(talk: Talk) -> None:
        talk.options = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "reasoning_effort": "low",
            "provider_args": {"truncation": "auto", "text": {"verbosity": "low"}},
        }
        await talk.step(
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "url": "https://example.com/a.png"},
                    {"type": "file", "file_id": "file_1"},
                    {"type": "file", "data": "QQ==", "filename": "a.txt"},
                ],
            }
        )

    run(provider, play)
    provider.assert_script_used()


def test_refusals_annotations_and_usage(provider: ProviderSimulator) -> None:
    """Refusals stream as text; annotations and tokens come with the end."""
    citation = {"type": "url_citation", "url": "https://x", "title": "t", "start_index": 0, "end_index": 2}
    provider.script(
        reply(reasoning("hm"), refusal("I ", "cannot."), usage=(30, 12)), text("As ", "said", annotations=[citation])
    )

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert (
            said,
            done.usage.prompt_tokens,
            done.usage.completion_tokens,
            done.usage.total_tokens,
        ) == ("I cannot.", 30, 12, 42)
        _, done = await talk.step(text_message("user", "two"))
        [content] = done.content
        assert content["text"]["value"] == "As said"
        assert [annotation["url"] for annotation in content["text"]["annotations"]] == ["https://x"]

    run(provider, play)


def test_the_token_limit(provider: ProviderSimulator) -> None:
    """A response cut at its limit ends with `length`, one that was filtered with `content_filter`."""
    provider.script(reply("Hel", incomplete()), reply("x", incomplete("content_filter")))

    async def play(talk: Talk) -> None:
        reasons = [(await talk.step(text_message("user", "go")))[1].finish_reason for _ in range(2)]
        assert reasons == ["length", "content_filter"]

    run(provider, play)
