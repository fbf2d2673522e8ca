"""A server that is killed in mid-run, and started again."""

from __future__ import annotations

from typing import Any

import pytest

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import Gate, call, text

TOOL = {"type": "function", "function": {"name": "ui_confirm", "parameters": {"type": "object", "properties": {}}}}


def serve(site: Site) -> ServerProcess:
    return site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")


def once(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events without those that came again; a number that came again has the same content."""
    kept = {event["seq"]: event for event in events}
    assert all(event == kept[event["seq"]] for event in events)
    return list(kept.values())


def assert_lost(arrived: list[dict[str, Any]]) -> None:
    """One outcome: an `error` that says why, then one `end`, without a hole in the numbers."""
    events = once(arrived)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events if event["type"] in ("error", "end")] == ["error", "end"]
    assert events[-2]["error"]["code"] == "process_lost"
    assert events[-1]["finish_reason"] == "error"


@pytest.mark.parametrize("stream_open", [True, False], ids=["in mid-text", "before the first text"])
def test_a_run_cut_off_ends_at_the_next_start(site: Site, stream_open: bool) -> None:
    """Its page gets `error` and `end` without asking, and its thread goes on where the text broke off."""
    gate = Gate()
    site.provider.script(text("once upon ", gate, "a time") if stream_open else text(gate, "a time"), "the end")
    first = serve(site)
    run = site.start(first.url, "Tell me a story")
    gate.wait_reached()
    if stream_open:
        site.gateway.wait_for(lambda: site.gateway.events(run_id=run["runId"], type="delta"))
    first.kill()
    gate.release()

    second = serve(site)

    assert_lost(site.events(run))
    assert site.gateway.text(run["runId"]) == ("once upon " if stream_open else "")
    assert site.stop(second.url, run)["status"] == "already_failed"
    again = site.start(second.url, "Go on", thread_id=run["threadId"])
    assert site.events(again)[-1]["finish_reason"] == "stop"
    assert site.gateway.text(again["runId"]) == "the end"
    if stream_open:
        creates = [request for request in site.provider.requests if request.operation == "create"]
        assert "once upon " in str(creates[-1].body)


def test_a_run_cut_off_while_a_page_is_asked_ends_too(site: Site) -> None:
    """A tool call that nobody will answer any more is closed, so that the model can go on in the next run."""
    site.provider.script([call("ui_confirm", {})], "as you wish")
    first = serve(site)
    run = site.start(first.url, tools=[TOOL])
    site.gateway.wait_for(lambda: site.gateway.actions("llmToolCall"))
    first.kill()

    second = serve(site)

    assert_lost(site.events(run))
    again = site.start(second.url, "Never mind", thread_id=run["threadId"], tools=[TOOL])
    assert site.events(again)[-1]["finish_reason"] == "stop"
    assert site.gateway.text(again["runId"]) == "as you wish"


def test_a_message_in_doubt_is_sent_again_byte_for_byte(site: Site) -> None:
    """A message that was on its way when the process died is sent again as it was; nothing else is."""
    gate = Gate()
    site.provider.script(text("doubtful ", gate))
    site.gateway.fault("hang", delivered=True)
    first = serve(site)
    run = site.start(first.url)
    site.gateway.wait_for(lambda: site.gateway.attempts)
    first.kill()
    site.gateway.release()
    gate.release()

    serve(site)

    site.events(run)
    doubtful, again, *_ = [attempt.body for attempt in site.gateway.attempts]
    assert again == doubtful


def test_what_had_ended_is_found_and_not_touched(site: Site) -> None:
    """Ended runs stay as they were, and their threads go on."""
    site.provider.script("finished", "and continued")
    first = serve(site)
    run = site.start(first.url)
    events = site.events(run)
    first.kill()

    second = serve(site)

    assert site.stop(second.url, run)["status"] == "already_completed"
    again = site.start(second.url, thread_id=run["threadId"])
    site.events(again)
    assert site.gateway.text(again["runId"]) == "and continued"
    assert once(site.gateway.events(run_id=run["runId"])) == events


def test_a_second_process_leaves_the_runs_of_a_living_one_alone(site: Site) -> None:
    """Starting a sibling ends nothing that is still driven."""
    gate = Gate()
    site.provider.script(text("slowly ", gate, "but surely"))
    first = serve(site)
    run = site.start(first.url)
    gate.wait_reached()

    second = serve(site)
    assert site.http.get(second.url + "/stream/create/assistants/healthz", timeout=30).status_code == 200
    gate.release()

    assert site.events(run)[-1]["finish_reason"] == "stop"
    assert site.gateway.text(run["runId"]) == "slowly but surely"
