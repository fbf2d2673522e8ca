"""The whole thing once, as a caller sees it."""

from __future__ import annotations

from bf_plugin.testing.deployment import Deployment


def test_stream(deployed: Deployment) -> None:
    """A start is answered at once, its text arrives on the channel, and the thread goes on."""
    deployed.provider.script("Hello there", "And again")

    run = deployed.start("Hi")
    events = deployed.events(run)

    assert [event["type"] for event in events if event["type"] != "delta"] == ["threadInfo", "end"]
    assert deployed.text(run) == "Hello there"
    again = deployed.start("More", thread_id=run["threadId"])
    assert deployed.events(again)[-1]["finish_reason"] == "stop"
    assert deployed.text(again) == "And again"


def test_poll(deployed: Deployment) -> None:
    """A polling start is answered with the text."""
    deployed.provider.script("Hello there")

    answer = deployed.poll("Hi")

    assert answer["data"] == [{"type": "text", "text": {"value": "Hello there"}}]
    assert answer["status"] == "done"
    assert deployed.gateway.messages == []
