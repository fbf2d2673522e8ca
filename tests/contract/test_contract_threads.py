"""Threads: continuing one, one run at a time, and whose they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY, Deployment
from bf_plugin.testing.provider import Gate, text

Deploy = Callable[..., Deployment]
OTHER = "BFAPI_other"


def said(deployed: Deployment) -> list[tuple[str, str]]:
    """Return all that the model saw before it gave its last response."""
    last = list(deployed.provider.responses.values())[-1]
    messages = [item for item in (*last.history, *last.input) if item["type"] == "message"]
    return [(item["role"], "".join(part["text"] for part in item["content"])) for item in messages]


@pytest.mark.parametrize("mode", ["auto", "responses", "conversation", "local"])
@pytest.mark.parametrize("name", ["thread_id", "threadId", "assistantThreadId"])
def test_continued(deploy: Deploy, mode: str, name: str) -> None:
    """A start with a thread id goes on with that conversation, under its id and a new run id."""
    deployed = deploy(state_mode=mode)
    deployed.provider.script("One", "Two", "Three")
    first = deployed.poll("A")

    second = deployed.poll("B", **{name: first["threadId"]})
    third = deployed.start("C", **{name: first["threadId"]})
    deployed.events(third)

    assert first["threadId"] == second["threadId"] == third["threadId"]
    assert len({first["runId"], second["runId"], third["runId"]}) == 3
    assert said(deployed) == [("user", "A"), ("assistant", "One"), ("user", "B"), ("assistant", "Two"), ("user", "C")]


def test_empty_id_is_a_new_thread(deployed: Deployment) -> None:
    """Pages send an empty or null id before they have one."""
    deployed.provider.script("One", "Two")

    answers = [deployed.poll("A", thread_id=empty) for empty in ("", None)]

    assert answers[0]["threadId"] != answers[1]["threadId"]


def test_instructions_are_for_one_run(deployed: Deployment) -> None:
    """Instructions count for their own run only."""
    deployed.provider.script("One", "Two")
    first = deployed.poll("A", instructions="Be brief.")
    deployed.poll("B", thread_id=first["threadId"])

    assert [asked.get("instructions") for asked in deployed.asked] == ["Be brief.", None]


def test_busy(deployed: Deployment) -> None:
    """A start on a thread whose run is not over is 409 with `Retry-After`, and does no harm to that run."""
    gate = Gate()
    deployed.provider.script(text("a", gate, "b"))
    run = deployed.start()
    gate.wait_reached()

    for stream in (True, False):
        answer = deployed.post("", deployed.body(stream=stream, thread_id=run["threadId"]))
        assert answer.status_code == 409
        assert int(answer.headers["Retry-After"]) >= 1
        assert (answer.json()["name"], answer.json()["className"]) == ("Conflict", "conflict")

    gate.release()
    assert deployed.events(run)[-1]["finish_reason"] == "stop"
    assert len(deployed.asked) == 1
    deployed.provider.script("Free again")
    assert deployed.poll(thread_id=run["threadId"])["status"] == "done"


def busy(deployed: Deployment, gate: Gate) -> dict[str, Any]:
    """Start a run that waits at `gate` between "one " and "two"."""
    deployed.provider.script(text("one ", gate, "two"))
    run = deployed.start("First")
    gate.wait_reached()
    deployed.wait_for_text(run, "one ")
    return run


def test_enqueue(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator may let starts on a busy thread run one after the other, each with what was said before it."""
    monkeypatch.setattr("bf_plugin.usecases.start.ACCEPT_TIMEOUT", 0.05)
    deployed, gate = deploy(thread_busy="enqueue"), Gate()
    first = busy(deployed, gate)

    second = deployed.start("Second", thread_id=first["threadId"])
    third = deployed.start("Third", thread_id=first["threadId"])

    assert len(deployed.asked) == 1
    assert {event["runId"] for event in deployed.gateway.events()} == {first["runId"]}
    deployed.provider.script("the second", "the third")
    gate.release()
    assert [event["finish_reason"] for event in deployed.events(third) if event["type"] == "end"] == ["stop"]
    ended = [event["runId"] for event in deployed.gateway.events(type="end")]
    assert ended == [first["runId"], second["runId"], third["runId"]]
    assert [words for _, words in said(deployed)] == ["First", "one two", "Second", "the second", "Third"]


def test_stop_of_a_queued_run(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at once, asks the provider nothing, and does not hold up those behind it, however slow its page is."""
    monkeypatch.setattr("bf_plugin.usecases.start.ACCEPT_TIMEOUT", 0.05)
    deployed, gate = deploy(thread_busy="enqueue"), Gate()
    first = busy(deployed, gate)
    second = deployed.start("Second", thread_id=first["threadId"])
    third = deployed.start("Third", thread_id=first["threadId"])

    deployed.gateway.fault("hang")
    assert deployed.stop(second)["status"] == "cancelled"
    deployed.gateway.wait_for(lambda: [one for one in deployed.gateway.attempts if one.answered_at is None])
    deployed.provider.script("the third")
    gate.release()

    assert deployed.events(third)[-1]["finish_reason"] == "stop"
    assert [words for _, words in said(deployed)] == ["First", "one two", "Third"]
    assert deployed.gateway.events(run_id=second["runId"]) == []
    deployed.gateway.release()
    assert deployed.events(second)[-1]["finish_reason"] == "cancelled"
    assert len(deployed.asked) == 2


def test_interrupt(deploy: Deploy) -> None:
    """An operator may let a start stop the present run first; the model is told how far that one came."""
    deployed = deploy(thread_busy="interrupt")
    first = busy(deployed, Gate())
    deployed.provider.script("the second")

    second = deployed.start("Second", thread_id=first["threadId"])

    assert deployed.events(second)[-1]["finish_reason"] == "stop"
    ends = [(event["runId"], event["finish_reason"]) for event in deployed.gateway.events(type="end")]
    assert ends == [(first["runId"], "cancelled"), (second["runId"], "stop")]
    assert deployed.stop(first)["status"] == "already_cancelled"
    assert [words for _, words in said(deployed)] == ["First", "one ", "Second"]


def test_start_right_after_end(deployed: Deployment) -> None:
    """Whoever has seen `end` may start again at once."""
    deployed.provider.brain = lambda request: f"{len(request.user_texts)}"
    run = deployed.start("1")
    for number in range(2, 7):
        deployed.events(run)
        run = deployed.start(str(number), thread_id=run["threadId"])
    deployed.events(run)

    assert deployed.text(run) == "6"


@pytest.mark.parametrize("thread_id", ["thread_abc123", "thread_" + "A" * 28, "xyzzy", "run_abc", "ä\x00", "t" * 5000])
def test_unknown(deployed: Deployment, thread_id: str) -> None:
    """An unknown thread is 404, whatever its id looks like."""
    error = deployed.refused(404, deployed.body(thread_id=thread_id))

    assert error["name"] == "NotFound"
    assert list(error["errors"]) == ["payload.thread_id"]
    assert thread_id not in str(error)
    assert deployed.asked == []


def test_invisible_to_other_apps(deploy: Deploy) -> None:
    """A thread of another app is answered exactly as one that does not exist, also while it is busy."""
    deployed = deploy(api_keys=f"{APP_KEY},{OTHER}", messaging="http")
    gate = Gate()
    deployed.provider.script(text("a", gate, "b"))
    run = deployed.start()
    gate.wait_reached()

    def refused(thread_id: str) -> dict[str, Any]:
        body = {**deployed.body(thread_id=thread_id), "apiKey": OTHER}
        return deployed.refused(404, body, headers={"X-Request-ID": "same"})

    while_busy = refused(run["threadId"])
    gate.release()
    deployed.events(run)

    assert while_busy == refused(run["threadId"]) == refused("thread_" + "B" * 28)
    assert len(deployed.asked) == 1


def test_rotated_keys_are_one_app(deploy: Deploy) -> None:
    """The keys of one configured app share its threads."""
    from bf_plugin.settings import AppSettings

    portal = AppSettings.model_validate({"api_keys": [APP_KEY, OTHER]})
    deployed = deploy(apps={"portal": portal}, messaging="http")
    deployed.gateway.keys = frozenset({APP_KEY, OTHER})
    deployed.provider.script("One", "Two")
    first = deployed.poll()

    again = deployed.post("", {**deployed.body(stream=False, thread_id=first["threadId"]), "apiKey": OTHER})

    assert (again.status_code, again.json()["threadId"]) == (200, first["threadId"])


def test_fresh(deploy: Deploy) -> None:
    """With the policy `fresh` an unknown id gives a new thread and a warning; a known one goes on."""
    deployed = deploy(unknown_thread="fresh")
    deployed.provider.script("One", "Two", "Three")

    first = deployed.poll("A", thread_id="thread_abc123")
    second = deployed.poll("B", thread_id=first["threadId"])

    assert first["threadId"] != "thread_abc123"
    assert [warning.split()[0] for warning in first["warnings"]] == ["payload.thread_id"]
    assert second["threadId"] == first["threadId"]
    assert "warnings" not in second


def test_fresh_does_not_open_other_apps_threads(deploy: Deploy) -> None:
    """With `fresh` another app's thread id gives a new, empty thread too."""
    deployed = deploy(unknown_thread="fresh", api_keys=f"{APP_KEY},{OTHER}", messaging="http")
    deployed.provider.script("One", "Two")
    first = deployed.poll("A")

    body = {"apiKey": OTHER, "channels": [CHANNEL], "actionName": ACTION, "payload": {}}
    body["payload"] = deployed.body("B", stream=False, thread_id=first["threadId"])["payload"]
    answer = deployed.post("", body).json()

    assert answer["threadId"] != first["threadId"]
    assert said(deployed) == [("user", "B")]


def test_another_provider_key(deployed: Deployment) -> None:
    """A thread goes on under another provider key, which cannot see what the first one kept at the provider."""
    deployed.provider.script("One", "Two")
    first = deployed.poll("A")

    second = deployed.poll("B", thread_id=first["threadId"], apiKey=PROVIDER_KEY + "-other")

    assert second["data"][0]["text"]["value"] == "Two"
    assert said(deployed) == [("user", "A"), ("assistant", "One"), ("user", "B")]


def test_expired_at_the_provider(deployed: Deployment) -> None:
    """A thread whose stored response has expired goes on from its history."""
    deployed.provider.script("One", "Two")
    first = deployed.poll("A")
    deployed.provider.fault("previous_response_expired", times=1)

    second = deployed.poll("B", thread_id=first["threadId"])

    assert second["data"][0]["text"]["value"] == "Two"
    assert said(deployed) == [("user", "A"), ("assistant", "One"), ("user", "B")]
