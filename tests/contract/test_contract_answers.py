"""Polling: what a start answers when it waits for the run's end, and how many may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import requests

from bf_plugin import hookimpl
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import Gate, call, failed, incomplete, refusal, reply, text

Deploy = Callable[..., Deployment]
UI_TOOL = {"type": "function", "function": {"name": "ui_show", "parameters": {"type": "object", "properties": {}}}}
CITED = {"type": "url_citation", "url": "https://example.org", "title": "E", "start_index": 0, "end_index": 5}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for callers that wait."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def polling(deployed: Deployment, threads: ThreadPoolExecutor, **payload: Any) -> Future[requests.Response]:
    """Start a run that waits for its end, in a thread and on a connection of its own."""
    url, body = deployed.url + "/stream/create/assistants", deployed.body(stream=False, **payload)
    return threads.submit(requests.post, url, json=body, timeout=60)


class RunIds:
    """A plugin that tells which runs were started, since a polling caller learns it last."""

    def __init__(self) -> None:
        self.runs: list[dict[str, str]] = []

    @hookimpl
    def before_run(self, run: Any) -> None:
        """Keep the ids."""
        self.runs.append({"runId": run.id, "threadId": run.thread_id})


class Shouting:
    """A plugin that changes the text."""

    @hookimpl
    def on_delta(self, run: Any, delta: Any) -> None:
        """Write capitals."""
        delta.text = delta.text.upper()


def test_done(deployed: Deployment) -> None:
    """A polling start is answered 200 when the run has ended, with exactly the published keys."""
    deployed.provider.script(reply(text("Final ", "answer"), usage=(10, 20)))

    answer = deployed.post("", deployed.body(stream=False))

    body = answer.json()
    assert answer.status_code == 200
    assert body == {
        "success": True,
        "data": [{"type": "text", "text": {"value": "Final answer"}}],
        "threadId": body["threadId"],
        "runId": body["runId"],
        "status": "done",
        "usage": {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
        "finish_reason": "stop",
    }
    assert deployed.gateway.attempts == []


def test_nothing_is_sent_to_channels(deployed: Deployment) -> None:
    """Channels of a polling start get nothing, even where they are given."""
    deployed.provider.script("Hello", "Hello")

    deployed.poll()
    run = deployed.start()

    deployed.events(run)
    assert {event["runId"] for event in deployed.gateway.events()} == {run["runId"]}


def test_usage_is_summed(deployed: Deployment) -> None:
    """The usage is that of all steps of the tool loop, and the answer is the last step's text."""
    deployed.provider.script(reply(text("Wait. "), call("nobody"), usage=(1, 2)), reply(text("Done."), usage=(30, 40)))

    body = deployed.poll(tools=[{"type": "function", "function": {"name": "nobody"}}])

    assert body["usage"] == {"prompt_tokens": 31, "completion_tokens": 42, "total_tokens": 73}
    assert body["data"] == [{"type": "text", "text": {"value": "Done."}}]


def test_annotations(deploy: Deploy) -> None:
    """Annotations are there when the provider gave any and no plugin changed the text."""
    deployed = deploy()
    deployed.provider.script(text("Cited", annotations=[CITED]))
    (part,) = deployed.poll()["data"]
    assert part["text"] == {"value": "Cited", "annotations": [CITED]}


def test_no_annotations_of_changed_text(deploy: Deploy) -> None:
    """Annotations count characters, so there are none when a plugin changed the text."""
    deployed = deploy(plugins=[Shouting()])
    deployed.provider.script(text("Cited", annotations=[CITED]))

    assert deployed.poll()["data"] == [{"type": "text", "text": {"value": "CITED"}}]


@pytest.mark.parametrize(
    ("script", "finish_reason"),
    [
        (text("said"), "stop"),
        (refusal("said"), "stop"),
        ([text("said"), incomplete("max_output_tokens")], "length"),
        ([text("said"), incomplete("content_filter")], "content_filter"),
    ],
)
def test_finish_reasons(deployed: Deployment, script: Any, finish_reason: str) -> None:
    """The finish reason says how the provider ended; a refusal is text."""
    deployed.provider.script(script)

    body = deployed.poll()

    assert (body["status"], body["finish_reason"]) == ("done", finish_reason)
    assert body["data"] == [{"type": "text", "text": {"value": "said"}}]


def test_ui_tools_are_refused(deployed: Deployment) -> None:
    """A polling caller has no page: `ui_` tools are 400."""
    error = deployed.refused(400, deployed.body(stream=False, tools=[UI_TOOL]))

    assert list(error["errors"]) == ["payload.tools.0"]
    assert deployed.asked == []


def test_stopped(deploy: Deploy, threads: ThreadPoolExecutor) -> None:
    """A run stopped meanwhile answers 200 `cancelled` with the text so far."""
    ids, gate = RunIds(), Gate()
    deployed = deploy(plugins=[ids])
    # What was said before the second step began has certainly been taken in.
    deployed.provider.script([text("So far"), call("nobody")], text(gate, "and more"))
    waiting = polling(deployed, threads)
    gate.wait_reached()

    assert deployed.stop(ids.runs[0])["status"] == "cancelled"

    body = waiting.result(10).json()
    assert (body["status"], body["finish_reason"], body["success"]) == ("cancelled", "cancelled", True)
    assert {key: body[key] for key in ("runId", "threadId")} == ids.runs[0]
    assert body["data"] == [{"type": "text", "text": {"value": "So far"}}]


def test_timeout(deploy: Deploy) -> None:
    """A run that outlasts the operator's limit is stopped: 408 with both ids, and the provider is told."""
    ids, gate = RunIds(), Gate()
    deployed = deploy(plugins=[ids], run_timeout=0.5)
    deployed.provider.script(text("So far ", gate, "and more"))

    error = deployed.refused(408, deployed.body(stream=False))

    assert (error["name"], error["className"]) == ("Timeout", "timeout")
    assert {key: error["data"][key] for key in ("runId", "threadId")} == ids.runs[0]
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["cancelled"])
    assert deployed.stop(ids.runs[0])["status"] == "already_expired"


def test_failed(deployed: Deployment) -> None:
    """A run the provider fails in the middle is 502 with both ids."""
    deployed.provider.script([text("Half"), failed("out of steam")])

    error = deployed.refused(502, deployed.body(stream=False))

    assert "out of steam" in error["message"]
    assert error["data"]["runId"].startswith("run_")
    assert error["data"]["threadId"].startswith("thread_")


def test_cap_on_waiters(deploy: Deploy, threads: ThreadPoolExecutor) -> None:
    """Over the cap a polling start is 503 with `Retry-After`; a streaming one, stop and the host go on."""
    deployed = deploy(max_waiters=2)
    gates = [Gate(), Gate(), Gate()]
    deployed.provider.script(*(text("a", gate, "b") for gate in gates))
    waiting = [polling(deployed, threads) for _ in range(2)]
    for gate in gates[:2]:
        gate.wait_reached()

    answer = deployed.post("", deployed.body(stream=False))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json()["name"] == "Unavailable"

    streaming = deployed.start()
    assert deployed.get("/healthz").status_code == 200
    assert deployed.get("/hello").text == "hello from the gateway"
    gates[2].wait_reached()
    assert deployed.stop(streaming)["status"] == "cancelled"

    for gate in gates:
        gate.release()
    assert [one.result(10).json()["status"] for one in waiting] == ["done", "done"]
    deployed.provider.script("Places are free again")
    assert deployed.poll()["status"] == "done"


def test_streaming_start_over_the_cap(deploy: Deploy, threads: ThreadPoolExecutor) -> None:
    """Over the cap a streaming start does not wait for the provider: what that refuses is told by `error` and `end`."""
    deployed = deploy(max_waiters=1)
    gate, slow = Gate(), Gate()
    deployed.provider.script(text("a", gate, "b"))
    waiting = polling(deployed, threads)
    gate.wait_reached()
    deployed.provider.fault("slow_accept", gate=slow, times=1)
    deployed.provider.fault("status", status=401, times=1)

    run = deployed.start()
    slow.release()

    events = deployed.events(run)
    assert [event["type"] for event in events] == ["threadInfo", "error", "end"]
    assert events[-1]["finish_reason"] == "error"
    gate.release()
    assert waiting.result(10).status_code == 200


def test_default_cap_is_two(deploy: Deploy, threads: ThreadPoolExecutor) -> None:
    """Without a setting two callers may wait."""
    deployed = deploy()
    gates = [Gate(), Gate()]
    deployed.provider.script(*(text(gate, "b") for gate in gates))
    waiting = [polling(deployed, threads) for _ in range(2)]
    for gate in gates:
        gate.wait_reached()

    assert deployed.post("", deployed.body(stream=False)).status_code == 503

    for gate in gates:
        gate.release()
    assert [one.result(10).status_code for one in waiting] == [200, 200]


def test_places_for_runs(deploy: Deploy) -> None:
    """Over `max_runs` a start is 503 with `Retry-After`."""
    deployed = deploy(max_runs=1)
    gate = Gate()
    deployed.provider.script(text("a", gate, "b"))
    run = deployed.start()

    answer = deployed.post("", deployed.body())

    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    gate.release()
    deployed.events(run)


def test_one_app_does_not_take_the_places_of_others(deploy: Deploy) -> None:
    """The last tenth is for apps that have less than their share: one app's rush does not shut out another."""
    gateway = RecordingGateway(keys=[APP_KEY, "BFAPI_other"])
    deployed = deploy(gateway=gateway, max_runs=10)
    gate = Gate()
    deployed.provider.brain = lambda request: reply(text("a", gate))
    other = {**deployed.body(), "apiKey": "BFAPI_other"}
    assert deployed.post("", other).status_code == 201
    runs = [deployed.start() for _ in range(8)]

    refused = deployed.post("", deployed.body())

    assert refused.status_code == 503
    assert "fewer runs" in refused.json()["message"]
    assert int(refused.headers["Retry-After"]) >= 1
    assert deployed.post("", other).status_code == 201
    gate.release()
    for run in runs:
        deployed.events(run)


def test_waiting_callers_are_not_mixed_up(deploy: Deploy, threads: ThreadPoolExecutor) -> None:
    """Callers that wait at the same time each get their own answer."""
    deployed = deploy(max_waiters=8)
    together = threading.Barrier(6)

    def one(number: int) -> bool:
        together.wait(10)
        body = deployed.body(f"Say {number}", stream=False)
        answer = requests.post(deployed.url + "/stream/create/assistants", json=body, timeout=30).json()
        return bool(answer["data"] == [{"type": "text", "text": {"value": f"You said: Say {number}"}}])

    deployed.provider.brain = lambda request: f"You said: {request.user_texts[-1]}"
    assert all(threads.map(one, range(6)))
