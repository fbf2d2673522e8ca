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


def assert_whole(site: Site, run: dict[str, Any], text: str, finish_reason: str = "stop") -> None:
    """Nothing lost, nothing doubled: numbers without a hole, the whole text, one `end`."""
    events = once(site.events(run, timeout=60))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert site.gateway.text(run["runId"]) == text
    assert [event["type"] for event in events].count("end") == 1
    assert events[-1]["finish_reason"] == finish_reason


@pytest.mark.parametrize("stream_open", [True, False], ids=["in mid-text", "before the first text"])
def test_a_run_cut_off_goes_on_at_the_next_start(site: Site, stream_open: bool) -> None:
    """The next life of the server follows the same response; the page sees one run."""
    gate = Gate()
    site.provider.script(text("once upon ", gate, "a time") if stream_open else text(gate, "once upon a time"))
    first = serve(site)
    run = site.start(first.url, "Tell me a story")
    gate.wait_reached(30)
    if stream_open:
        site.gateway.wait_for(lambda: site.gateway.events(run_id=run["runId"], type="delta"), timeout=30)
    first.kill()
    gate.release()

    second = serve(site)

    assert_whole(site, run, "once upon a time")
    assert [request.operation for request in site.provider.requests].count("create") == 1
    assert site.stop(second.url, run)["status"] == "already_completed"


def test_a_run_whose_response_is_lost_ends_as_failed(site: Site) -> None:
    """What cannot be followed any more ends with `error` and `end`, and its thread goes on where the text broke off."""
    gate = Gate()
    site.provider.script(text("once upon ", gate, "a time"), "the end")
    first = serve(site)
    run = site.start(first.url, "Tell me a story")
    site.gateway.wait_for(lambda: site.gateway.events(run_id=run["runId"], type="delta"), timeout=30)
    first.kill()
    for response in site.provider.responses.values():
        response.visible = False
    gate.release()

    second = serve(site)

    assert_whole(site, run, "once upon ", "error")
    assert site.gateway.events(run_id=run["runId"], type="error")[0]["error"]["code"] == "provider_lost_response"
    again = site.start(second.url, "Go on", thread_id=run["threadId"])
    assert_whole(site, again, "the end")
    creates = [request for request in site.provider.requests if request.operation == "create"]
    assert "once upon " in str(creates[-1].body)


def test_a_page_asked_before_the_crash_can_answer_after_it(site: Site) -> None:
    """The page has its tool call already: it is not asked again, and its answer counts in the next life."""
    site.provider.script([call("ui_confirm", {})], "as you wish")
    first = serve(site)
    run = site.start(first.url, tools=[TOOL])
    site.gateway.wait_for(lambda: site.gateway.actions("llmToolCall"), timeout=30)
    site.gateway.wait_for(lambda: site.gateway.attempts[-1].status is not None, timeout=30)
    first.kill()
    second = serve(site)
    asked = site.gateway.actions("llmToolCall")[0]["options"]["toolCallId"]

    answer = site.post(second.url, "/tool-response", {"toolCallId": asked, "success": True})

    assert answer.json()["status"] == "accepted"
    assert_whole(site, run, "as you wish")


def test_a_message_in_doubt_is_sent_again_byte_for_byte(site: Site) -> None:
    """A message that was on its way when the process died is sent again as it was; nothing else is."""
    gate = Gate()
    site.provider.script(text("doubtful ", gate))
    site.gateway.fault("hang", delivered=True)
    first = serve(site)
    run = site.start(first.url)
    site.gateway.wait_for(lambda: site.gateway.attempts, timeout=30)
    first.kill()
    site.gateway.release()
    gate.release()

    serve(site)

    site.events(run, timeout=60)
    doubtful, again, *_ = [attempt.body for attempt in site.gateway.attempts]
    assert again == doubtful


def test_what_had_ended_is_found_and_not_touched(site: Site) -> None:
    """Ended runs stay as they were, and their threads go on."""
    site.provider.script("finished", "and continued")
    first = serve(site)
    run = site.start(first.url)
    events = site.events(run, timeout=60)
    first.kill()

    second = serve(site)

    assert site.stop(second.url, run)["status"] == "already_completed"
    again = site.start(second.url, thread_id=run["threadId"])
    site.events(again, timeout=60)
    assert site.gateway.text(again["runId"]) == "and continued"
    assert once(site.gateway.events(run_id=run["runId"])) == events


def test_a_second_process_leaves_the_runs_of_a_living_one_alone(site: Site) -> None:
    """Starting a sibling ends nothing that is still driven."""
    gate = Gate()
    site.provider.script(text("slowly ", gate, "but surely"))
    first = serve(site)
    run = site.start(first.url)
    gate.wait_reached(30)

    second = serve(site)
    assert site.http.get(second.url + "/stream/create/assistants/healthz", timeout=30).status_code == 200
    gate.release()

    assert site.events(run, timeout=60)[-1]["finish_reason"] == "stop"
    assert site.gateway.text(run["runId"]) == "slowly but surely"
