"""Reconnect and inspect: a run, its events as JSON and as a stream, the messages of a thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from bf_plugin import Toolbox, hookimpl
from bf_plugin.runtime.ids import new_run_id, new_thread_id
from bf_plugin.runtime.paths import PREFIX
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.provider import Gate, call, failed, text
from bf_plugin.values import Delta, Run

Deploy = Callable[..., Deployment]
Started = dict[str, Any]

KEY = {"X-Api-Key": APP_KEY}

# werkzeug's lint asks for `Content-Length: 0`, which RFC 9110 (8.6) forbids with 204.
pytestmark = pytest.mark.filterwarnings("ignore:204 responses")


def by_header(run: Started) -> dict[str, str]:
    return {"X-Thread-Id": run["threadId"]}


def report(deployed: Deployment, run: Started) -> dict[str, Any]:
    answer = deployed.get(f"/runs/{run['runId']}", headers=by_header(run))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def events(deployed: Deployment, run: Started, after: int | None = None) -> list[dict[str, Any]]:
    params = {} if after is None else {"after": str(after)}
    answer = deployed.get(f"/runs/{run['runId']}/events", headers=by_header(run), params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


class Reader:
    """Reads server-sent events as a browser does."""

    def __init__(self, answer: requests.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines(chunk_size=1)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, event) until the stream ends."""
        last = ""
        for line in self._lines:
            name, _, value = line.decode().partition(": ")
            if name == "id":
                last = value
            elif name == "data":
                yield last, json.loads(value)

    def until(self, kind: str) -> list[dict[str, Any]]:
        """Return the events up to and including the first of a kind."""
        found = []
        for _, event in self:
            found.append(event)
            if event["type"] == kind:
                return found
        raise AssertionError(f"the stream ended without {kind}: {found}")


@contextmanager
def stream(deployed: Deployment, run: Started, after: int | None = None, **headers: str) -> Iterator[Reader]:
    # Not through the deployment's session: its tests read every answer whole.
    params = {"threadId": run["threadId"], **({} if after is None else {"after": str(after)})}
    url = f"{deployed.url}{PREFIX}/runs/{run['runId']}/events"
    headers = {"Accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
    with requests.get(url, params=params, headers=headers, stream=True, timeout=20) as answer:
        yield Reader(answer)


def half_way(deployed: Deployment, gate: Gate) -> Started:
    """Start a run that has said "So far " and waits at `gate` to say the rest."""
    deployed.provider.script(text("So far ", gate, "so good"))
    run = deployed.start("Tell me")
    deployed.wait_for_text(run, "So far ")
    return run


# -- a run


def test_a_run_under_way(deployed: Deployment) -> None:
    """A running run is reported with its text so far, and how far that is."""
    gate = Gate()
    run = half_way(deployed, gate)

    found = report(deployed, run)

    assert found == {
        "success": True,
        "threadId": run["threadId"],
        "runId": run["runId"],
        "status": "running",
        "text": "So far ",
        "seq": events(deployed, run)[-1]["seq"],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        "finish_reason": None,
        "error": None,
    }
    gate.release()
    deployed.events(run)


def test_a_completed_run(deployed: Deployment) -> None:
    """A run that is over is reported with all of its text and the usage that `end` told."""
    deployed.provider.script("Hello")
    run = deployed.start()
    end = deployed.events(run)[-1]

    found = report(deployed, run)

    assert (found["status"], found["finish_reason"], found["text"]) == ("completed", "stop", "Hello")
    assert found["usage"] == end["usage"]
    assert found["seq"] == end["seq"]


def test_a_failed_run(deployed: Deployment) -> None:
    """A failed run is reported with the error its `error` event told, and the text that came before."""
    deployed.provider.script([text("Half"), failed("out of steam")])
    run = deployed.start()
    error = next(event for event in deployed.events(run) if event["type"] == "error")

    found = report(deployed, run)

    assert (found["status"], found["finish_reason"], found["text"]) == ("failed", "error", "Half")
    assert found["error"] == error["error"]


def test_a_stopped_run(deployed: Deployment) -> None:
    """A stopped run is `cancelled`."""
    run = half_way(deployed, Gate())
    deployed.stop(run)
    deployed.events(run)

    assert report(deployed, run)["status"] == "cancelled"


def test_a_polled_run(deployed: Deployment) -> None:
    """A run whose caller waited can be looked at too, though nothing of it was sent."""
    deployed.provider.script("Hello")
    run = deployed.poll()

    assert report(deployed, run)["text"] == "Hello"
    assert [event["type"] for event in events(deployed, run)] == ["threadInfo", "delta", "end"]


# -- the ids


@pytest.mark.parametrize("path", ["/runs/{}", "/runs/{}/events"])
def test_the_thread_id_is_required(deployed: Deployment, path: str) -> None:
    """Without the thread id: 400 that names it. By header and in the query it is as good."""
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.events(run)
    path = path.format(run["runId"])

    missing = deployed.get(path)
    empty = deployed.get(path, params={"threadId": ""}, headers={"X-Thread-Id": ""})

    assert (missing.status_code, list(missing.json()["errors"])) == (400, ["threadId"])
    assert empty.status_code == 400
    assert deployed.get(path, params={"threadId": run["threadId"]}).status_code == 200
    assert deployed.get(path, headers=by_header(run)).status_code == 200


@pytest.mark.parametrize("path", ["/runs/{}", "/runs/{}/events"])
def test_an_unknown_pair(deployed: Deployment, path: str) -> None:
    """Ids that do not belong together, or to nothing, are 404, and no answer tells which it was."""
    deployed.provider.script("Hello", "Hello")
    run, other = deployed.start(), deployed.start()
    deployed.events(run)
    deployed.events(other)
    pairs = [
        (run["runId"], other["threadId"]),
        (run["runId"], new_thread_id()),
        (new_run_id(), run["threadId"]),
        ("run_x", "thread_x"),
        ("%00", "nonsense"),
        ("%F0%9F%98%80", "t" * 5000),
    ]

    answers = [deployed.get(path.format(run_id), headers={"X-Thread-Id": thread_id}) for run_id, thread_id in pairs]

    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["message"] for answer in answers}) == 1


def test_only_get(deployed: Deployment) -> None:
    """Other methods are 405."""
    assert deployed.post("/runs/run_x", {}).status_code == 405
    assert deployed.post("/runs/run_x/events", {}).status_code == 405


# -- events as JSON


def test_events_are_those_that_were_sent(deployed: Deployment) -> None:
    """All events, the same as the channel had; `after` is exclusive."""
    deployed.provider.script("Hello there")
    run = deployed.start()
    sent = deployed.events(run)

    assert events(deployed, run) == sent
    assert events(deployed, run, after=1) == sent[1:]
    assert events(deployed, run, after=sent[-1]["seq"]) == []
    assert events(deployed, run, after=2**31 - 1) == []


@pytest.mark.parametrize("style", ["options", "data", "both"])
def test_events_of_every_style(deploy: Deploy, style: str) -> None:
    """However a message carries its event, here it is the event itself."""
    deployed = deploy(event_style=style)
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.gateway.wait_for(lambda: [event["type"] for event in events(deployed, run)][-1:] == ["end"])

    assert [event["type"] for event in events(deployed, run)] == ["threadInfo", "delta", "end"]


def test_browser_tool_calls_are_no_events(deployed: Deployment) -> None:
    """`llmToolCall` has no seq and is not among the events; `function_call` lists its id."""
    deployed.provider.script(call("ui_ask", '{"a": 1}'), "Fine")
    parameters = {"type": "object", "properties": {"a": {"type": "number"}}}
    run = deployed.start(tools=[{"type": "function", "name": "ui_ask", "parameters": parameters}])
    deployed.gateway.wait_for(lambda: "function_call" in [event["type"] for event in events(deployed, run)])

    asked = events(deployed, run)[-1]

    assert [event["seq"] for event in events(deployed, run)] == [1, 2]
    tool_call_id = asked["calls"][0]["toolCallId"]
    deployed.post("/tool-response", {"toolCallId": tool_call_id, "success": True, "message": "", "data": None})
    assert [event["seq"] for event in deployed.events(run)] == [1, 2, 3, 4]
    assert events(deployed, run) == deployed.events(run)


@pytest.mark.parametrize("after", ["-1", "x", "1.0", "", "2147483648", "9" * 50, "1_0", "٣"])
def test_a_bad_seq(deployed: Deployment, after: str) -> None:
    """A seq that is none is 400 that names the parameter."""
    run = {"threadId": new_thread_id(), "runId": new_run_id()}

    answer = deployed.get(f"/runs/{run['runId']}/events", headers=by_header(run), params={"after": after})

    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["after"]


def test_text_is_what_hooks_let_through(deploy: Deploy) -> None:
    """Neither a run, nor its events, nor its thread's messages show what `on_delta` took away."""

    class Guard:
        @hookimpl
        def on_delta(self, run: Run, delta: Delta) -> None:
            delta.text = delta.text.replace("secret", "******")

    deployed = deploy(plugins=[Guard()])
    deployed.provider.script("the secret word")
    run = deployed.start()
    deployed.events(run)

    thread = deployed.get(f"/threads/{run['threadId']}/messages", headers=KEY)

    assert report(deployed, run)["text"] == "the ****** word"
    assert "secret" not in thread.text
    assert "secret" not in json.dumps(events(deployed, run))


# -- events as a stream


def test_a_stream(deployed: Deployment) -> None:
    """A stream has the events so far, then each as it is committed, its id is the seq, and it ends with `end`."""
    gate = Gate()
    run = half_way(deployed, gate)

    with stream(deployed, run) as reader:
        assert reader.answer.headers["Content-Type"].startswith("text/event-stream")
        assert reader.answer.headers["X-Accel-Buffering"] == "no"
        assert reader.answer.headers["Cache-Control"] == "no-store"
        reader.until("delta")
        gate.release()
        rest = list(reader)

    sent = deployed.events(run)
    assert [event for _, event in rest] == sent[2:]
    assert [int(seq) for seq, _ in rest] == [event["seq"] for event in sent[2:]]
    assert rest[-1][1]["type"] == "end"


def test_a_stream_goes_on_after_what_is_known(deployed: Deployment) -> None:
    """`after` and `Last-Event-ID` are exclusive; what a reconnecting browser says wins over the URL."""
    deployed.provider.script("Hello")
    run = deployed.start()
    sent = deployed.events(run)

    with stream(deployed, run, after=1) as reader:
        assert [event for _, event in reader] == sent[1:]
    with stream(deployed, run, after=0, Last_Event_ID="2") as reader:
        assert [event for _, event in reader] == sent[2:]


def test_nothing_more_to_come(deployed: Deployment) -> None:
    """A stream after `end` is 204, which tells an EventSource not to come back."""
    deployed.provider.script("Hello")
    run = deployed.start()
    sent = deployed.events(run)
    deployed.gateway.wait_for(lambda: report(deployed, run)["usage"] == sent[-1]["usage"])

    def asked() -> int:
        with stream(deployed, run, Last_Event_ID=str(sent[-1]["seq"])) as reader:
            assert list(reader) == []
            return reader.answer.status_code

    deployed.gateway.wait_for(lambda: asked() == 204)


def test_a_bad_last_event_id(deployed: Deployment) -> None:
    """A `Last-Event-ID` that is no seq is 400."""
    run = {"threadId": new_thread_id(), "runId": new_run_id()}

    with stream(deployed, run, Last_Event_ID="x") as reader:
        assert reader.answer.status_code == 400


def test_streams_are_capped(deploy: Deploy) -> None:
    """Streams are among the requests that wait; over the cap 503 with `Retry-After`; JSON needs no place."""
    deployed = deploy(max_waiters=1)
    gate = Gate()
    run = half_way(deployed, gate)

    with stream(deployed, run) as first:
        first.until("delta")
        with stream(deployed, run) as second:
            assert second.answer.status_code == 503
            assert second.answer.headers["Retry-After"] == "1"
        assert events(deployed, run)[-1]["type"] == "delta"
        gate.release()
        first.until("end")
        assert list(first) == []
    with stream(deployed, run, after=1) as third:
        assert third.until("end")


def test_a_client_that_leaves_frees_its_place(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose client has gone is closed at a heartbeat, and its place is free."""
    monkeypatch.setattr("bf_plugin.usecases.inspection.HEARTBEAT", 0.05)
    deployed = deploy(max_waiters=1)
    gate = Gate()
    run = half_way(deployed, gate)
    with stream(deployed, run) as reader:
        reader.until("delta")

    def status() -> int:
        with stream(deployed, run) as other:
            return other.answer.status_code

    deployed.gateway.wait_for(lambda: status() == 200)
    gate.release()
    deployed.events(run)


def test_heartbeats_are_comments(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is broken by comments, which no EventSource hands to the page."""
    monkeypatch.setattr("bf_plugin.usecases.inspection.HEARTBEAT", 0.05)
    deployed = deploy()
    gate = Gate()
    run = half_way(deployed, gate)

    with stream(deployed, run) as reader:
        lines = reader.answer.iter_lines(chunk_size=1)
        next(line for line in lines if line.startswith(b":"))
        gate.release()
        rest = list(lines)

    assert sum(line.startswith(b"data: ") for line in rest) == 2


def test_closing_ends_streams(deploy: Deploy) -> None:
    """A process that shuts down ends its streams: their pages come back to another."""
    deployed = deploy()
    run = half_way(deployed, Gate())

    with stream(deployed, run) as reader:
        reader.until("delta")
        closing = threading.Thread(target=deployed.application.close)
        closing.start()
        assert list(reader) == []
        closing.join()


# -- the messages of a thread


def messages(deployed: Deployment, run: Started, **params: str) -> dict[str, Any]:
    answer = deployed.get(f"/threads/{run['threadId']}/messages", headers=KEY, params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def said(run: Started, role: str, value: str) -> dict[str, Any]:
    return {"role": role, "runId": run["runId"], "content": [{"type": "text", "text": {"value": value}}]}


def test_messages(deployed: Deployment) -> None:
    """What user and assistant said, oldest first, over the runs of the thread."""
    deployed.provider.script("Hello", "Again")
    first = deployed.start("Hi")
    deployed.events(first)
    second = deployed.start("And?", thread_id=first["threadId"])
    deployed.events(second)

    assert messages(deployed, first) == {
        "success": True,
        "threadId": first["threadId"],
        "messages": [
            said(first, "user", "Hi"),
            said(first, "assistant", "Hello"),
            said(second, "user", "And?"),
            said(second, "assistant", "Again"),
        ],
        "hasMore": False,
    }


def test_messages_of_the_newest_runs(deployed: Deployment) -> None:
    """`limit` counts runs, from the newest; `hasMore` says that older ones were left out."""
    deployed.provider.script("Hello", "Again")
    first = deployed.start("Hi")
    deployed.events(first)
    second = deployed.start("And?", thread_id=first["threadId"])
    deployed.events(second)

    found = messages(deployed, first, limit="1")

    assert found["messages"] == [said(second, "user", "And?"), said(second, "assistant", "Again")]
    assert found["hasMore"] is True


def test_messages_around_tools(deploy: Deploy) -> None:
    """What was said before and after a tool call are two messages; calls and instructions are not among them."""
    tools = Toolbox("clock")

    @tools.tool()
    def now() -> str:
        return "noon"

    deployed = deploy(plugins=[tools])
    deployed.provider.script([text("Let me see. "), call("now")], "It is noon.")
    developer = {"role": "developer", "content": "Be brief"}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/clock.png", "detail": "low"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "What time?"}, image]}
    run = deployed.start(
        messages=[developer, asked], tools=[{"type": "function", "name": "now", "parameters": {"type": "object"}}]
    )
    deployed.events(run)

    found = messages(deployed, run)["messages"]

    assert found[0]["content"][1] == image
    assert found[1:] == [said(run, "assistant", "Let me see. "), said(run, "assistant", "It is noon.")]


def test_messages_need_the_key(deployed: Deployment) -> None:
    """No key: 401. A thread the app does not have: 404. A limit that is none: 400."""
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.events(run)
    path = f"/threads/{run['threadId']}/messages"

    assert deployed.get(path).status_code == 401
    assert deployed.get(path, headers={"X-Api-Key": "BFAPI_other"}).status_code == 401
    assert deployed.get(f"/threads/{new_thread_id()}/messages", headers=KEY).status_code == 404
    assert deployed.get(path, headers=KEY, params={"limit": "0"}).status_code == 400


def test_messages_of_another_app(deploy: Deploy) -> None:
    """A thread of another app is as unknown as one that never was."""
    deployed = deploy(api_keys=f"{APP_KEY},BFAPI_other")
    deployed.provider.script("Hello")
    run = deployed.start()
    deployed.events(run)

    answer = deployed.get(f"/threads/{run['threadId']}/messages", headers={"X-Api-Key": "BFAPI_other"})

    assert answer.status_code == 404
