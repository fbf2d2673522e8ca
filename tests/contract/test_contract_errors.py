"""Errors: one body for all, what a provider's refusal becomes, and that no key is ever told."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from bf_plugin import hookimpl
from bf_plugin.errors import NAMES, RequestError, error_body
from bf_plugin.settings import AppSettings
from bf_plugin.testing.deployment import ACTION, APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.testing.provider import Gate, ProviderSimulator, text

Deploy = Callable[..., Deployment]
START, STOP = "/stream/create/assistants", "/stream/create/assistants/stop"
OPERATOR_KEY = "sk-operator-fedcba9876543210"


# -- the body


def test_body(deployed: Deployment) -> None:
    """Every error has the union of what BetterForms clients read."""
    answer = deployed.post("", deployed.body(messages=[]), headers={"X-Request-ID": "req-1"})

    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {
        "success": False,
        "name": "BadRequest",
        "message": "payload.messages must not be empty",
        "code": 400,
        "className": "bad-request",
        "actionName": ACTION,
        "errors": {"payload.messages": "must not be empty"},
        "data": {"requestId": "req-1"},
        "error": {
            "message": "payload.messages must not be empty",
            "code": 400,
            "details": "payload.messages must not be empty",
        },
    }


def test_names() -> None:
    """Names and class names are those of Feathers errors."""
    class_names = {
        code: error_body(RequestError(code, "m"), request_id="r", action_name=None)["className"] for code in NAMES
    }

    assert NAMES == {
        400: "BadRequest",
        401: "NotAuthenticated",
        403: "Forbidden",
        404: "NotFound",
        405: "MethodNotAllowed",
        408: "Timeout",
        409: "Conflict",
        413: "PayloadTooLarge",
        415: "UnsupportedMediaType",
        422: "Unprocessable",
        429: "TooManyRequests",
        500: "GeneralError",
        502: "BadGateway",
        503: "Unavailable",
    }
    assert class_names == {
        400: "bad-request",
        401: "not-authenticated",
        403: "forbidden",
        404: "not-found",
        405: "method-not-allowed",
        408: "timeout",
        409: "conflict",
        413: "payload-too-large",
        415: "unsupported-media-type",
        422: "unprocessable",
        429: "too-many-requests",
        500: "general-error",
        502: "bad-gateway",
        503: "unavailable",
    }


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", [START, STOP, START + "/tool-response"])
def test_wrong_method(deployed: Deployment, method: str, path: str) -> None:
    """Another method is 405 with the same body, and says which are allowed."""
    answer = deployed.http.request(method, deployed.url + path, timeout=10)

    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert (answer.json()["name"], answer.json()["code"], answer.json()["success"]) == ("MethodNotAllowed", 405, False)


def test_unknown_path(deployed: Deployment) -> None:
    """Below our prefix an unknown path is our 404; beside it, the host's."""
    ours = deployed.get("/nothing/here")
    beside = deployed.http.get(deployed.url + "/stream/create/assistantsX", timeout=10)

    assert (ours.status_code, ours.json()["name"], ours.json()["success"]) == (404, "NotFound", False)
    assert "success" not in beside.json()


def test_action_name_only_where_it_is_one(deployed: Deployment) -> None:
    """The action name is echoed where it is a valid one, else null."""
    for name in ("function", "<script>", 7, None):
        error = deployed.refused(400, {**deployed.body(messages=[]), "actionName": name})
        assert error["actionName"] is None


# -- request ids


def test_request_id(deployed: Deployment, caplog: pytest.LogCaptureFixture) -> None:
    """A well-formed `X-Request-ID` is in every answer, in log lines and in the provider's request."""
    deployed.provider.script("Hello")
    name = {"X-Request-ID": "trace.1:2/3"}

    created = deployed.post("", deployed.body(), headers=name)
    deployed.events(created.json())
    stopped = deployed.post("/stop", {"threadId": "a", "runId": "b"}, headers=name)
    refused = deployed.post("/stop", {}, headers=name)
    healthy = deployed.get("/healthz", headers=name)

    for answer in (created, stopped, refused, healthy):
        assert answer.headers["X-Request-ID"] == "trace.1:2/3"
    asked = next(request for request in deployed.provider.requests if request.operation == "create")
    assert asked.headers["x-client-request-id"] == "trace.1:2/3"
    deployed.provider.fault("status", status=500)
    deployed.post("", deployed.body(), headers=name)
    assert any("trace.1:2/3" in record.getMessage() for record in caplog.records if record.name.startswith("bf_plugin"))


def test_a_long_request_id(deployed: Deployment) -> None:
    """128 characters are well-formed."""
    answer = deployed.post("/stop", {}, headers={"X-Request-ID": "x" * 128})

    assert answer.json()["data"]["requestId"] == answer.headers["X-Request-ID"] == "x" * 128


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "a;b", '{"a":1}', "sk-abcdefghijklmnop", "BFAPI_abc"])
def test_bad_request_id(deployed: Deployment, name: str) -> None:
    """One that is not well-formed is replaced by one of ours."""
    answers = [deployed.post("/stop", {}, headers={"X-Request-ID": name}) for _ in range(2)]

    made = [answer.headers["X-Request-ID"] for answer in answers]
    assert name not in made
    assert len(set(made)) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9-]{16,64}", each) for each in made)
    assert [answer.json()["data"]["requestId"] for answer in answers] == made


# -- the provider's refusals


def refusing(deployed: Deployment, status: int, *, stream: bool, key: str | None, **fault: Any) -> requests.Response:
    """Start a run that the provider refuses with `status`."""
    deployed.provider.fault("status", status=status, times=1, **fault)
    return deployed.post("", deployed.body(stream=stream, apiKey=key))


PROVIDER_ERRORS = [
    (401, 502, 401),
    (403, 502, 401),
    (429, 429, 429),
    (400, 400, 400),
    (404, 400, 400),
    (422, 400, 400),
    (408, 502, 502),
    (500, 502, 502),
    (502, 502, 502),
    (503, 502, 502),
    (529, 502, 502),
]
"""What the provider answers, and what that becomes with the operator's key and with the caller's."""

STREAM = pytest.mark.parametrize("stream", [True, False])


@STREAM
@pytest.mark.parametrize(
    ("provider", "operator", "caller"),
    PROVIDER_ERRORS,
)
def test_provider_errors(deploy: Deploy, provider: int, operator: int, caller: int, stream: bool) -> None:
    """Every kind of refusal is an HTTP error of its own, by whose key was used, and leaves no thread behind."""
    deployed = deploy(openai_api_key=OPERATOR_KEY)

    for key, expected in ((None, operator), (PROVIDER_KEY, caller)):
        answer = refusing(deployed, provider, stream=stream, key=key)
        assert answer.status_code == expected, answer.text
        assert answer.json()["name"] == NAMES[expected]
        assert ("Retry-After" in answer.headers) == (expected == 429)
    assert len(deployed.asked) == 2
    assert deployed.gateway.attempts == []
    assert threads_on_record(deployed) == 0


def threads_on_record(deployed: Deployment) -> int:
    """Return how many threads the journal has."""
    from sqlalchemy import create_engine, func, select

    from bf_plugin.journal.tables import threads

    engine = create_engine(str(deployed.settings.database_url))
    try:
        with engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(threads)).scalar_one())
    finally:
        engine.dispose()


@pytest.mark.parametrize("key", [None, PROVIDER_KEY])
@pytest.mark.parametrize("status", [401, 403])
@STREAM
def test_fixed_text_for_keys(
    deploy: Deploy, key: str | None, status: int, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What the provider says about a key quotes it, so the caller reads our own words, and so does the log."""
    deployed = deploy(openai_api_key=OPERATOR_KEY)
    used = key or OPERATOR_KEY
    quoting = f"Incorrect API key provided: {used[:8]}****{used[-4:]} ({used}). See example.org"

    answer = refusing(deployed, status, stream=stream, key=key, message=quoting)

    logged = "\n".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    for said in (answer.text, str(answer.headers), logged):
        assert "Incorrect" not in said
        for part in (used, used[:8], used[-4:], "****"):
            assert part not in said


@pytest.mark.parametrize("status", [400, 429, 500])
def test_other_messages_without_key(deployed: Deployment, status: int) -> None:
    """The provider's own words are passed on where they help, but for any key in them."""
    quoting = f"Bad thing with {PROVIDER_KEY} or sk-te****cdef happened"

    answer = refusing(deployed, status, stream=True, key=PROVIDER_KEY, message=quoting)

    assert "Bad thing with" in answer.json()["message"]
    assert "happened" in answer.json()["message"]
    assert PROVIDER_KEY[-4:] not in answer.text
    assert "sk-te" not in answer.text


@pytest.mark.parametrize(("said", "passed_on"), [(7, "7"), (1.2, "2"), (0.1, "1")])
def test_retry_after_of_the_provider(deployed: Deployment, said: float, passed_on: str) -> None:
    """A rate limit is passed on with the provider's own `Retry-After`, in whole seconds that are not too few."""
    answer = refusing(deployed, 429, stream=False, key=PROVIDER_KEY, retry_after=said)

    assert (answer.status_code, answer.headers["Retry-After"]) == (429, passed_on)


def test_a_thread_that_the_provider_holds(deployed: Deployment) -> None:
    """The provider's own 409 is that of a busy thread: it can be tried again."""
    answer = refusing(deployed, 409, stream=False, key=PROVIDER_KEY)

    assert (answer.status_code, answer.json()["name"]) == (409, "Conflict")
    assert int(answer.headers["Retry-After"]) >= 1


def test_refused_key_of_the_simulator(deploy: Deploy) -> None:
    """A key the provider does not know is 401 for the caller whose it is."""
    with ProviderSimulator(keys=["sk-right"]) as provider:
        deployed = deploy(provider=provider)

        error = deployed.refused(401, deployed.body())

    assert list(error["errors"]) == ["payload.apiKey"]


@STREAM
def test_dropped_connection(deployed: Deployment, stream: bool) -> None:
    """A provider that drops the connection is 502."""
    deployed.provider.fault("drop", times=1)

    error = deployed.refused(502, deployed.body(stream=stream))

    # Which of the two depends on the transport below the SDK.
    assert error["error"]["details"] in ("provider_unreachable", "provider_timeout")
    assert threads_on_record(deployed) == 0


def test_unreachable_provider(deploy: Deploy) -> None:
    """A provider that is not there is 502, and the answer tells nothing of the network."""
    deployed = deploy(openai_base_url="http://127.0.0.1:9/v1")

    error = deployed.refused(502, deployed.body())

    assert "127.0.0.1" not in str(error)


@STREAM
def test_refusal_on_a_thread(deployed: Deployment, stream: bool) -> None:
    """A refused start leaves its thread as it was: free, and without the message."""
    deployed.provider.script("One", "Two")
    first = deployed.poll("A")

    fault = deployed.provider.fault("status", status=500, times=1)
    deployed.refused(502, deployed.body("Lost", stream=stream, thread_id=first["threadId"]))
    second = deployed.poll("B", thread_id=first["threadId"])

    assert fault.used == 1
    assert second["threadId"] == first["threadId"]
    last = list(deployed.provider.responses.values())[-1]
    said = [part["text"] for item in (*last.history, *last.input) for part in item["content"]]
    assert said == ["A", "One", "B"]


def test_provider_is_asked_once(deployed: Deployment) -> None:
    """A refused create is not repeated by itself: that would repeat the turn."""
    refusing(deployed, 500, stream=True, key=PROVIDER_KEY)

    assert len(deployed.asked) == 1


# -- the slow provider


def test_slow_acceptance(deployed: Deployment) -> None:
    """A provider that takes more than 2 s to accept does not hold the answer; what it says later comes as events."""
    gate = Gate()
    deployed.provider.fault("slow_accept", gate=gate, times=1)
    deployed.provider.script("Hello")

    answer = deployed.post("", deployed.body())

    assert answer.status_code == 201
    assert 1.9 <= answer.elapsed.total_seconds() < 4
    gate.release()
    events = deployed.events(answer.json())
    assert [event["type"] for event in events] == ["threadInfo", "delta", "end"]


@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (429, "rate_limit_exceeded"), (500, None)])
def test_slow_refusal(deployed: Deployment, status: int, code: str | None) -> None:
    """A refusal that comes after the answer is reported by `error` and `end`; the thread can be used again."""
    gate = Gate()
    deployed.provider.fault("slow_accept", gate=gate, times=1)
    deployed.provider.fault("status", status=status, times=1)
    run = deployed.start("Hi")
    gate.release()

    events = deployed.events(run)

    assert [event["type"] for event in events] == ["threadInfo", "error", "end"]
    assert events[1]["error"]["code"] == (code or "provider_error")
    assert PROVIDER_KEY not in str(events)
    assert "sk-" not in str(events)
    assert events[-1]["finish_reason"] == "error"
    assert deployed.stop(run)["status"] == "already_failed"
    deployed.provider.script("Now")
    assert deployed.poll("Again", thread_id=run["threadId"])["status"] == "done"


def test_slow_acceptance_of_a_polling_start(deployed: Deployment) -> None:
    """A polling caller waits anyway, and gets the refusal as its answer."""
    gate = Gate()
    slow = deployed.provider.fault("slow_accept", gate=gate, times=1)
    deployed.provider.fault("status", status=429, times=1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(requests.post, deployed.url + START, json=deployed.body(stream=False), timeout=30)
        deployed.provider.wait_until(lambda: slow.used == 1)
        gate.release()
        assert waiting.result(20).status_code == 429


# -- secrets


class Broken:
    """A plugin with a bug that quotes all it can see."""

    @hookimpl
    def before_run(self, run: Any) -> None:
        """Fail."""
        raise RuntimeError(f"cannot work with {PROVIDER_KEY} and {APP_KEY} in {run.thread_id}")


def test_no_key_in_tracebacks(deploy: Deploy, caplog: pytest.LogCaptureFixture) -> None:
    """A traceback that quotes keys and thread ids is logged without them, and the caller sees none of it."""
    deployed = deploy(plugins=[Broken()])

    error = deployed.refused(500, deployed.body())

    assert error["message"] == "a plugin of the gateway failed"
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    text_ = "\n".join(f"{record.getMessage()}\n{record.exc_text or ''}\n{record.exc_info}" for record in logged)
    assert "RuntimeError" in text_
    assert "[redacted]" in text_
    for secret in (PROVIDER_KEY, PROVIDER_KEY[-6:], APP_KEY):
        assert secret not in text_
        assert secret not in str(error)


def test_no_key_at_rest(deploy: Deploy, tmp_path: Any) -> None:
    """What a person, a model or a tool wrote, and every key, is encrypted on disk; an ended run's key is gone."""
    deployed = deploy(folder=tmp_path, database_url=f"sqlite:///{tmp_path / 'journal.db'}", messaging="http")
    gate = Gate()
    deployed.provider.script(text("the secret answer", gate, "."))
    run = deployed.start("the secret question", instructions="the secret instructions")
    deployed.wait_for_text(run, "the secret answer")

    def on_disk() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.rglob("journal*") if path.is_file())

    for _ in range(2):
        stored = on_disk()
        assert run["runId"].encode() in stored
        for secret in (b"the secret", PROVIDER_KEY.encode(), PROVIDER_KEY[-8:].encode(), APP_KEY.encode()):
            assert secret not in stored
        gate.release()
        deployed.events(run)
    deployed.provider.script("Another")
    deployed.events(deployed.start(thread_id=run["threadId"]))  # comes up once the first is wholly over
    with sqlite3.connect(tmp_path / "journal.db") as journal:
        kept = journal.execute("SELECT secrets_sealed FROM bf_runs WHERE id = ?", [run["runId"]]).fetchall()
    journal.close()
    assert kept == [(None,)]


def test_configured_keys_are_not_shown() -> None:
    """Settings and apps print without their keys."""
    app = AppSettings.model_validate({"api_keys": [APP_KEY], "openai_api_key": OPERATOR_KEY})

    assert APP_KEY not in repr(app)
    assert OPERATOR_KEY not in repr(app)
