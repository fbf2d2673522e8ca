"""`Idempotency-Key`: the same key and body start one run, however often and wherever they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from bf_plugin import RunDraft, RunRejected, hookimpl
from bf_plugin.journal.keys import KEY_LIFE
from bf_plugin.testing.deployment import APP_KEY, Deployment
from bf_plugin.testing.gateway import RecordingGateway
from bf_plugin.testing.provider import Gate, failed, text

Deploy = Callable[..., Deployment]


def post(deployed: Deployment, body: dict[str, Any], key: str = "key-1") -> requests.Response:
    return deployed.post("", body, headers={"Idempotency-Key": key})


def first_answer(answer: requests.Response) -> dict[str, Any]:
    return {"code": answer.status_code, **answer.json()}


def test_a_streaming_start(deployed: Deployment) -> None:
    """A repeat of a streaming start gets the same 201, while the run is under way and afterwards; one run exists."""
    gate = Gate()
    deployed.provider.script(text("So far ", gate, "so good"))
    body = deployed.body("Hi", unknown_key=1)
    first = post(deployed, body)

    under_way = post(deployed, body)
    gate.release()
    deployed.events(first.json())
    afterwards = post(deployed, body)

    assert first.status_code == 201
    assert first.json()["warnings"]
    assert first_answer(under_way) == first_answer(afterwards) == first_answer(first)
    assert len(deployed.asked) == 1


def test_a_polling_start(deployed: Deployment) -> None:
    """A repeat of a polling start gets the same 200."""
    deployed.provider.script("Hello")
    body = deployed.body("Hi", stream=False)

    first, again = post(deployed, body), post(deployed, body)

    assert first.json()["data"] == [{"type": "text", "text": {"value": "Hello"}}]
    assert first_answer(again) == first_answer(first)
    assert len(deployed.asked) == 1


def test_a_repeat_waits_for_the_first(deploy: Deploy) -> None:
    """A repeat that arrives while a polling start still runs waits for the same answer."""
    deployed = deploy(max_waiters=8)
    gate = Gate()
    deployed.provider.script(text("So far ", gate, "so good"))
    body = deployed.body("Hi", stream=False)

    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(post, deployed, body) for _ in range(3)]
        gate.wait_reached()
        gate.release()
        found = [first_answer(answer.result(20)) for answer in answers]

    assert found[0]["data"] == [{"type": "text", "text": {"value": "So far so good"}}]
    assert found[0] == found[1] == found[2]
    assert len(deployed.asked) == 1


def test_repeats_that_arrive_together(deploy: Deploy) -> None:
    """Of streaming starts that arrive together one starts a run, the others get its answer."""
    deployed = deploy(max_waiters=16)
    deployed.provider.script("Hello")
    body = deployed.body("Hi")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: first_answer(post(deployed, body)), range(8)))

    assert answers[0]["code"] == 201
    assert all(answer == answers[0] for answer in answers)
    deployed.events(answers[0])
    assert len(deployed.asked) == 1


def test_another_body(deployed: Deployment) -> None:
    """The same key with another body is 422 that names the header; the order of keys in the body does not matter."""
    deployed.provider.script("Hello")
    body = deployed.body("Hi")
    first = post(deployed, body)

    other = post(deployed, deployed.body("Ho"))
    turned = post(deployed, dict(reversed(body.items())))

    assert (other.status_code, list(other.json()["errors"])) == (422, ["Idempotency-Key"])
    assert first_answer(turned) == first_answer(first)
    deployed.events(first.json())


def test_keys_are_the_apps_own(deploy: Deploy) -> None:
    """Two apps may use the same key."""
    deployed = deploy(gateway=RecordingGateway(keys=[APP_KEY, "BFAPI_other"]))
    deployed.provider.script("Hello", "Hello")

    mine = post(deployed, deployed.body("Hi"))
    theirs = post(deployed, {**deployed.body("Hi"), "apiKey": "BFAPI_other"})

    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert mine.json()["runId"] != theirs.json()["runId"]
    deployed.events(mine.json())
    deployed.events(theirs.json())


def test_without_a_key(deployed: Deployment) -> None:
    """Without the header every start is a run of its own."""
    deployed.provider.script("Hello", "Hello")

    first, second = deployed.start("Hi"), deployed.start("Hi")

    assert first["runId"] != second["runId"]
    deployed.events(first)
    deployed.events(second)


def test_a_busy_thread_does_not_hide_the_answer(deployed: Deployment) -> None:
    """A repeat of a start that continues a thread is no second run on it, so it is not 409."""
    gate = Gate()
    deployed.provider.script("Hello", text("So far ", gate))
    thread = deployed.start("Hi")
    deployed.events(thread)
    body = deployed.body("More", thread_id=thread["threadId"])
    first = post(deployed, body)

    again = post(deployed, body)

    assert first.status_code == 201
    assert first_answer(again) == first_answer(first)
    gate.release()
    deployed.events(first.json())


def test_a_refused_start_frees_its_key(deployed: Deployment) -> None:
    """A start the provider refuses leaves its key free: a repeat is a start of its own."""
    deployed.provider.fault("status", status=429, times=1)
    deployed.provider.script("Hello")
    body = deployed.body("Hi")

    refused, again = post(deployed, body), post(deployed, body)

    assert (refused.status_code, again.status_code) == (429, 201)
    deployed.events(again.json())


def test_a_rejected_start_frees_its_key(deploy: Deploy) -> None:
    """So does a start that a hook rejects; and a hook is not asked again for a repeat."""
    asked = []

    class Limit:
        @hookimpl
        def before_run(self, run: RunDraft) -> None:
            asked.append(run.id)
            if len(asked) == 1:
                raise RunRejected(429, "not now")

    deployed = deploy(plugins=[Limit()])
    deployed.provider.script("Hello")
    body = deployed.body("Hi")

    statuses = [post(deployed, body).status_code for _ in range(3)]

    assert statuses == [429, 201, 201]
    assert len(asked) == 2


def test_a_polling_start_that_failed(deployed: Deployment) -> None:
    """A polling run that failed after it was accepted is not started again: its error is the answer."""
    deployed.provider.script([text("Half"), failed("out of steam")])
    body = deployed.body("Hi", stream=False)

    first, again = post(deployed, body), post(deployed, body)

    assert first.status_code >= 500
    assert again.status_code == first.status_code
    for name in ("message", "errors", "error"):
        assert again.json()[name] == first.json()[name]
    assert again.json()["data"]["runId"] == first.json()["data"]["runId"]
    assert len(deployed.asked) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", "a\tb"])
def test_bad_keys(deployed: Deployment, key: str) -> None:
    """A key is 1 to 255 printable ASCII characters: else 400 that names the header."""
    answer = deployed.post("", deployed.body(), headers={"Idempotency-Key": key.encode("latin-1")})

    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["Idempotency-Key"]


def test_over_the_cap(deploy: Deploy) -> None:
    """A repeat that would have to wait and may not is 503 with `Retry-After`."""
    deployed = deploy(max_waiters=1)
    gate = Gate()
    deployed.provider.script(text("So far ", gate))
    body = deployed.body("Hi", stream=False)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(post, deployed, body)
        gate.wait_reached()
        again = post(deployed, body)
        gate.release()
        assert first.result(20).status_code == 200

    assert (again.status_code, again.headers["Retry-After"]) == (503, "1")


def test_after_a_day(deployed: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 24 hours a key is free."""
    deployed.provider.script("Hello", "Hello")
    body = deployed.body("Hi")
    first = post(deployed, body).json()
    deployed.events(first)
    later = time.time() + KEY_LIFE + 1
    monkeypatch.setattr("bf_plugin.journal.keys.time.time", lambda: later)

    second = post(deployed, body).json()

    assert second["runId"] != first["runId"]


def test_nobody_kept_the_answer(deploy: Deploy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first start's process died before it answered, the answer is made from the run."""
    monkeypatch.setattr("bf_plugin.journal.keys.KeyStore.answer", lambda *_: None)
    deployed = deploy()
    deployed.provider.script("Hello", "Hello")
    streaming, polling = deployed.body("Hi"), deployed.body("Hi", stream=False)
    first, polled = post(deployed, streaming, "a"), post(deployed, polling, "b")

    assert first_answer(post(deployed, streaming, "a")) == first_answer(first)
    assert first_answer(post(deployed, polling, "b")) == first_answer(polled)
    deployed.events(first.json())
