"""Stopping: every state of a run, one outcome, and a conversation that works afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from bf_plugin import Toolbox
from bf_plugin.settings import AppSettings
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.provider import Gate, call, failed, text

Deploy = Callable[..., Deployment]
Run = dict[str, Any]


def streaming(deployed: Deployment, gate: Gate, *, said: str = "So far ") -> Run:
    """Start a run whose channel has `said`, and which then waits at `gate`."""
    deployed.provider.script(text(said, gate, "never said"))
    run = deployed.start("Tell me")
    gate.wait_reached()
    deployed.wait_for_text(run, said)
    return run


def end_of(deployed: Deployment, run: Run) -> dict[str, Any]:
    """Return a run's `end`, once it is there; nothing follows it."""
    events = deployed.events(run)
    assert [event["type"] for event in events].count("end") == 1
    assert events[-1]["type"] == "end"
    return events[-1]


# -- the request


@pytest.mark.parametrize(
    ("body", "missing"),
    [
        ({}, ["threadId", "runId"]),
        ({"threadId": "thread_a"}, ["runId"]),
        ({"runId": "run_a"}, ["threadId"]),
        ({"threadId": "thread_a", "runId": None}, ["runId"]),
        ({"threadId": 1, "runId": "run_a"}, ["threadId"]),
    ],
)
def test_both_ids_are_required(deployed: Deployment, body: dict[str, Any], missing: list[str]) -> None:
    """A missing id, or one that is no string, is 400 that names it."""
    error = deployed.refused(400, body, "/stop")

    assert list(error["errors"]) == missing
    assert missing[0] in error["message"]


@pytest.mark.parametrize(
    "pair",
    [("", ""), ("thread_x", "run_x"), ("nonsense", "\x00"), ("thread_" + "A" * 5000, "run_B"), ("ä", "run_\U0001f600")],
)
def test_unknown_pair(deployed: Deployment, pair: tuple[str, str]) -> None:
    """Whatever two strings nobody knows are answered 200 `not_found`."""
    answer = deployed.stop({"threadId": pair[0], "runId": pair[1]})

    assert answer == {"success": True, "status": "not_found", "threadId": pair[0], "runId": pair[1]}


def test_ids_of_two_runs(deployed: Deployment) -> None:
    """A run id with another run's thread id is an unknown pair, and stops nothing."""
    gate = Gate()
    run = streaming(deployed, gate)
    deployed.provider.script("other")
    other = deployed.start()
    deployed.events(other)

    mixed = deployed.stop({"threadId": other["threadId"], "runId": run["runId"]})

    assert mixed["status"] == "not_found"
    gate.release()
    assert end_of(deployed, run)["finish_reason"] == "stop"


# -- every state


def test_running(deployed: Deployment) -> None:
    """A running run is stopped: `cancelled`, `end` says so too, and the provider is told."""
    gate = Gate()
    run = streaming(deployed, gate)

    answer = deployed.stop(run)

    ids = {"threadId": run["threadId"], "runId": run["runId"]}
    assert answer == {"success": True, "status": "cancelled", **ids}
    assert end_of(deployed, run)["finish_reason"] == "cancelled"
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["cancelled"])


def test_no_delta_follows(deployed: Deployment) -> None:
    """What the provider says after the stop is never sent, even where it ignores the cancel."""
    gate = Gate()
    deployed.provider.fault("cancel_completes")
    run = streaming(deployed, gate)

    deployed.stop(run)
    gate.release()

    events = deployed.events(run)
    deployed.provider.wait_until(
        lambda: [one.status for one in deployed.provider.responses.values()] != ["in_progress"]
    )
    assert [event["type"] for event in events] == ["threadInfo", "delta", "end"]
    deployed.provider.script("Another run takes its whole way.")
    deployed.events(deployed.start("Go on", thread_id=run["threadId"]))
    assert deployed.gateway.events(run_id=run["runId"]) == events
    assert deployed.text(run) == "So far "


def test_stop_is_fast(deployed: Deployment) -> None:
    """`end` is delivered within 250 ms of the stop request."""
    gate = Gate()
    run = streaming(deployed, gate)
    deployed.stop({"threadId": "thread_warm", "runId": "run_up"})

    asked = time.monotonic()
    deployed.stop(run)
    deployed.events(run)

    ended = deployed.gateway.messages[-1]
    assert ended.actions[-1]["options"]["type"] == "end"
    assert ended.at - asked < 0.25


def test_stopping_twice(deployed: Deployment) -> None:
    """Stopping twice is stopping once: `already_cancelled`, and one `end`."""
    run = streaming(deployed, Gate())

    assert deployed.stop(run)["status"] == "cancelled"
    assert deployed.stop(run)["status"] == "already_cancelled"
    assert end_of(deployed, run)["finish_reason"] == "cancelled"
    assert deployed.stop(run)["status"] == "already_cancelled"


def test_completed(deployed: Deployment) -> None:
    """A run that is over is `already_completed`."""
    deployed.provider.script("Hello")
    run = deployed.start()
    end_of(deployed, run)

    assert deployed.stop(run)["status"] == "already_completed"


def test_failed(deployed: Deployment) -> None:
    """A failed run is `already_failed`."""
    deployed.provider.script([text("Half"), failed("out of steam")])
    run = deployed.start()
    assert end_of(deployed, run)["finish_reason"] == "error"

    assert deployed.stop(run)["status"] == "already_failed"


def test_expired(deploy: Deploy) -> None:
    """A run past its deadline ends as `expired`, with an error, and is `already_expired`."""
    deployed = deploy(run_timeout=0.3)
    deployed.provider.script(text("So far ", Gate()))
    run = deployed.start()

    events = deployed.events(run)

    assert [event["type"] for event in events if event["type"] != "delta"] == ["threadInfo", "error", "end"]
    assert events[-1]["finish_reason"] == "expired"
    assert deployed.stop(run)["status"] == "already_expired"


def test_before_the_provider_accepted(deployed: Deployment) -> None:
    """A run whose provider is still silent can be stopped: `end` does not wait for the provider."""
    gate = Gate()
    deployed.provider.fault("slow_accept", gate=gate, times=1)
    deployed.provider.script("Too late")
    run = deployed.start()

    assert deployed.stop(run)["status"] == "cancelled"

    events = deployed.events(run)
    assert [event["type"] for event in events] == ["threadInfo", "end"]
    assert events[-1]["finish_reason"] == "cancelled"
    gate.release()
    deployed.provider.wait_until(lambda: any(request.operation == "cancel" for request in deployed.provider.requests))


def test_while_a_message_is_in_flight(deployed: Deployment) -> None:
    """The message in flight is finished, what waits behind it is dropped, `end` comes next."""
    gate, deltas = Gate(), Gate()
    deployed.provider.script(text("one ", gate, "two ", deltas, "three"))
    run = deployed.start()
    deployed.wait_for_text(run, "one ")
    deployed.gateway.fault("hang")
    gate.release()
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])
    deltas.release()

    assert deployed.stop(run)["status"] == "cancelled"
    deployed.gateway.release()

    assert [event["type"] for event in deployed.events(run)] == ["threadInfo", "delta", "delta", "end"]
    assert deployed.text(run) == "one two "


def test_before_it_came_up(deployed: Deployment) -> None:
    """A run that waits for another's ending can be stopped: it asks the model nothing and still says how it ended."""
    first = streaming(deployed, Gate())
    deployed.gateway.fault("hang")
    deployed.stop(first)
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])
    waiting = deployed.start("Go on", thread_id=first["threadId"])

    assert deployed.stop(waiting)["status"] == "cancelled"
    events = deployed.events(waiting)
    deployed.gateway.release()

    assert [event["type"] for event in events] == ["threadInfo", "end"]
    assert events[-1]["finish_reason"] == "cancelled"
    assert end_of(deployed, first)["finish_reason"] == "cancelled"
    assert len(deployed.asked) == 1
    deployed.provider.script("Free again")
    assert deployed.poll("And now?", thread_id=first["threadId"])["status"] == "done"


def test_one_outcome(deploy: Deploy) -> None:
    """Stops race with the completion: all answers and `end` name the same outcome."""
    deployed = deploy()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            gate = Gate()
            deployed.provider.script(text("a", gate, "b"))
            run = deployed.start()
            gate.wait_reached()
            together = threading.Barrier(4)

            def stop(run: Run = run, together: threading.Barrier = together) -> str:
                together.wait(10)
                body = {"threadId": run["threadId"], "runId": run["runId"]}
                answer = requests.post(deployed.url + "/stream/create/assistants/stop", json=body, timeout=10)
                return str(answer.json()["status"])

            stops = [pool.submit(stop) for _ in range(3)]
            together.wait(10)
            gate.release()
            said = sorted(one.result(10) for one in stops)

            reason = end_of(deployed, run)["finish_reason"]
            if reason == "cancelled":
                assert said == ["already_cancelled", "already_cancelled", "cancelled"]
            else:
                assert (reason, said) == ("stop", ["already_completed"] * 3)


# -- keys


def test_key_of_the_app(deploy: Deploy) -> None:
    """No key is needed; one that is sent must be the run's own app's, else the pair is unknown."""
    other = "BFAPI_other"
    deployed = deploy(api_keys=f"{APP_KEY},{other}", messaging="http")
    gate = Gate()
    run = streaming(deployed, gate)
    ids = {"threadId": run["threadId"], "runId": run["runId"]}

    for key in (other, "BFAPI_unknown"):
        assert deployed.post("/stop", {**ids, "apiKey": key}).json()["status"] == "not_found"
        assert deployed.post("/stop", ids, headers={"X-Api-Key": key}).json()["status"] == "not_found"
    assert deployed.post("/stop", {**ids, "apiKey": APP_KEY}).json()["status"] == "cancelled"


def test_key_may_be_required(deploy: Deploy) -> None:
    """An operator may require a key to stop."""
    deployed = deploy(stop_needs_key=True)
    run = streaming(deployed, Gate())
    ids = {"threadId": run["threadId"], "runId": run["runId"]}

    deployed.refused(401, ids, "/stop")
    deployed.refused(401, {**ids, "apiKey": "BFAPI_other"}, "/stop")
    assert deployed.post("/stop", {**ids, "apiKey": APP_KEY}).json()["status"] == "cancelled"


# -- the conversation afterwards


@pytest.mark.parametrize("mode", ["responses", "conversation", "local"])
def test_partial_text_stays(deploy: Deploy, mode: str) -> None:
    """A new start at once is 201, and the model is told what was said, up to the stop."""
    deployed = deploy(state_mode=mode)
    run = streaming(deployed, Gate())
    deployed.stop(run)

    deployed.provider.script("Of course")
    again = deployed.post("", deployed.body("Go on", thread_id=run["threadId"]))

    assert again.status_code == 201
    assert end_of(deployed, again.json())["finish_reason"] == "stop"
    assert deployed.text(again.json()) == "Of course"
    said = [(item["role"], words(item)) for item in last_context(deployed) if item["type"] == "message"]
    assert said == [("user", "Tell me"), ("assistant", "So far "), ("user", "Go on")]


def last_context(deployed: Deployment) -> list[dict[str, Any]]:
    """Return all that the model saw before it gave its last response."""
    last = list(deployed.provider.responses.values())[-1]
    return [*last.history, *last.input]


def words(item: dict[str, Any]) -> str:
    """Return the text of a message."""
    return "".join(part["text"] for part in item["content"])


def test_start_while_ending(deployed: Deployment) -> None:
    """A run that is merely ending never causes a 409: the new one waits for it and is answered 201."""
    run = streaming(deployed, Gate())
    deployed.gateway.fault("hang")
    deployed.stop(run)
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])
    deployed.provider.script("Afterwards")

    again = deployed.post("", deployed.body("Go on", thread_id=run["threadId"]))

    assert again.status_code == 201
    deployed.gateway.release()
    assert deployed.events(again.json())[-1]["finish_reason"] == "stop"
    events = deployed.gateway.events()
    last_of_first = max(number for number, event in enumerate(events) if event["runId"] == run["runId"])
    first_of_second = min(number for number, event in enumerate(events) if event["runId"] == again.json()["runId"])
    assert last_of_first < first_of_second


@pytest.mark.parametrize("mode", ["responses", "conversation", "local"])
def test_started_tool(deploy: Deploy, mode: str) -> None:
    """A tool that had started is closed with words that it may have taken effect; the next run works."""
    tools, started, release = Toolbox("slow"), threading.Event(), threading.Event()

    @tools.tool()
    def pay(amount: int) -> str:
        """Pay."""
        started.set()
        release.wait(30)
        return "paid"

    deployed = deploy(plugins=[tools], state_mode=mode)
    offered = [{"type": "function", "function": {"name": "pay"}}]
    deployed.provider.script([text("Paying. "), call("pay", {"amount": 1}, call_id="call_1")])
    run = deployed.start("Pay", tools=offered)
    assert started.wait(10)

    assert deployed.stop(run)["status"] == "cancelled"
    assert end_of(deployed, run)["finish_reason"] == "cancelled"
    deployed.provider.script("I did not repeat it.")
    again = deployed.start("And?", thread_id=run["threadId"], tools=offered)

    assert end_of(deployed, again)["finish_reason"] == "stop"
    release.set()
    context = last_context(deployed)
    outputs = [item for item in context if item["type"] == "function_call_output"]
    assert [item["call_id"] for item in outputs] == ["call_1"]
    assert "may have taken effect" in outputs[0]["output"]
    kinds = [item["type"] for item in context]
    assert kinds.index("function_call") < kinds.index("function_call_output")


@pytest.mark.parametrize("mode", ["responses", "conversation", "local"])
def test_while_calls_are_written(deploy: Deploy, mode: str) -> None:
    """A stop while the model still writes a call leaves no open call behind, whatever the provider committed."""
    deployed = deploy(state_mode=mode)
    gate = Gate()
    deployed.provider.fault("commit_on_cut", times=1)
    deployed.provider.script([text("Hm. "), call("pay", {"amount": 1}), text(gate, "x")])
    run = deployed.start("Pay", tools=[{"type": "function", "function": {"name": "pay"}}])
    gate.wait_reached()

    deployed.stop(run)
    deployed.provider.script("Fine.")
    again = deployed.start("And?", thread_id=run["threadId"])

    assert end_of(deployed, again)["finish_reason"] == "stop"
    assert deployed.text(again) == "Fine."


def test_stop_in_the_tool_loop_is_no_more_steps(deploy: Deploy) -> None:
    """A stop while tools run asks the model nothing more, and a late result changes nothing."""
    tools, started, release = Toolbox("slow"), threading.Event(), threading.Event()

    @tools.tool()
    def slow() -> str:
        """Take long."""
        started.set()
        release.wait(30)
        return "late"

    deployed = deploy(plugins=[tools])
    deployed.provider.script([call("slow")], "never asked for")
    run = deployed.start(tools=[{"type": "function", "function": {"name": "slow"}}])
    assert started.wait(10)
    deployed.gateway.wait_for(lambda: deployed.gateway.events(run_id=run["runId"], type="function_call"))

    deployed.stop(run)
    events = deployed.events(run)
    release.set()

    assert [event["type"] for event in events] == ["threadInfo", "function_call", "end"]
    assert len(deployed.asked) == 1


def test_threads_of_configured_apps_survive_a_stop(deploy: Deploy) -> None:
    """With configured apps and HTTP delivery a stop works the same."""
    deployed = deploy(apps={"portal": AppSettings.model_validate({"api_keys": [APP_KEY]})}, messaging="http")
    run = streaming(deployed, Gate())

    assert deployed.stop(run)["status"] == "cancelled"
    assert end_of(deployed, run)["finish_reason"] == "cancelled"
