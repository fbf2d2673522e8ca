"""Runs against an independent server of the three protocols, which knows nothing of this project."""

from __future__ import annotations

import pytest

from bf_plugin.testing import assert_events

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


@pytest.fixture
def beside(deploy, aimock, almanac, dialect):
    """A deployment whose engines are pointed to the independent server."""
    return deploy(sections={dialect.name: dialect.section(aimock.url)}, plugins=[almanac])


@pytest.mark.filterwarnings("ignore:FUNCTION_CALL:UserWarning")  # which Google's SDK does not know
def test_what_another_server_says(beside, aimock, dialect):
    """Text with usage, parallel calls and their answers, refusals and a stream that breaks off."""
    about = {"provider": dialect.name, "model": dialect.model}
    aimock.say({"userMessage": "Hello"}, {"content": "Grüße, \N{GRINNING FACE} and a long good day to you all"})
    calls = [{"name": "weather", "arguments": f'{{"place": "{place}"}}', "id": place} for place in ("Ulm", "Nowhere")]
    aimock.say({"userMessage": "Weather", "hasToolResult": False}, {"content": "Let me see. ", "toolCalls": calls})
    aimock.say({"userMessage": "Weather", "hasToolResult": True}, {"content": "Fine in Ulm."})
    aimock.say({"userMessage": "Busy"}, {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429})
    aimock.say({"userMessage": "Break"}, {"content": "all of this " * 20}, truncateAfterChunks=4, latency=20)

    run = beside.start("Hello", **about)
    events = beside.events(run, timeout=60)  # an SDK is loaded
    assert_events(events, "threadInfo delta+ end", text="Grüße, \N{GRINNING FACE} and a long good day to you all")
    assert events[-1]["usage"]["total_tokens"] > 0

    run = beside.start("Weather", tools=[WEATHER], **about)
    assert_events(beside.events(run), "threadInfo delta+ function_call delta+ end", text="Let me see. Fine in Ulm.")
    understood = [entry["body"]["messages"] for entry in aimock.journal if entry["body"]][-1]
    results = [message["content"] for message in understood if message["role"] == "tool"]
    assert "fine in Ulm" in results[0]
    assert "there is no such place" in results[1]

    assert "slow down" in beside.refused(429, beside.body("Busy", **about))["message"]

    run = beside.start("Break", **about)
    assert_events(beside.events(run), "threadInfo delta+ error end", finish_reason="error")
