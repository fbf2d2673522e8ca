"""Starting a run: the streaming answer, and the app key."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
import requests

from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY, Deployment
from bf_plugin.testing.provider import call, text
from starts import WEATHER_TOOL, Deploy, changed, run_url


def test_created(deployed: Deployment) -> None:
    """A streaming start is answered 201 with exactly the published keys, and its ids are capabilities."""
    deployed.provider.script("Hello")

    answer = deployed.post("", deployed.body("Hi"))

    assert answer.status_code == 201
    assert answer.headers["Content-Type"].startswith("application/json")
    body = answer.json()
    assert body == {"success": True, "threadId": body["threadId"], "runId": body["runId"], "status": "created"}
    # 160 random bits need at least 27 characters of a url-safe alphabet of 64.
    assert re.fullmatch(r"thread_[A-Za-z0-9_-]{27,57}", body["threadId"])
    assert re.fullmatch(r"run_[A-Za-z0-9_-]{27,60}", body["runId"])


def test_example_request(deploy: Deploy) -> None:
    """The published example, tool included, gives threadInfo, deltas, function_call, deltas, end in that order."""
    deployed = deploy(plugins=[weather()])
    deployed.provider.script(
        [text("Let me ", "look."), call("getCurrentWeather", {"location": "San Francisco, CA"})],
        text("It is ", "sunny."),
    )
    example = {
        "apiKey": APP_KEY,
        "channels": [CHANNEL],
        "actionName": ACTION,
        "payload": {
            "provider": "openai",
            "apiKey": PROVIDER_KEY,
            "stream": True,
            "model": "gpt-4-turbo",
            "instructions": "You are a helpful assistant that provides concise answers.",
            "messages": [{"role": "user", "content": "What's the weather like in San Francisco?"}],
            "tools": [WEATHER_TOOL],
        },
    }

    answer = deployed.post("", example)
    events = deployed.events(answer.json())

    kinds = [event["type"] for event in events]
    assert [kind for before, kind in zip([None, *kinds], kinds, strict=False) if kind != before] == [
        "threadInfo",
        "delta",
        "function_call",
        "delta",
        "end",
    ]
    assert deployed.text(answer.json()) == "Let me look.It is sunny."
    first, second = deployed.asked
    assert first["model"] == "gpt-4-turbo"
    assert first["instructions"] == second["instructions"] == example["payload"]["instructions"]  # type: ignore[index]
    assert [tool["name"] for tool in second["tools"]] == ["getCurrentWeather"]
    assert [(item["type"], item["output"]) for item in second["input"]] == [("function_call_output", "sunny")]


def weather() -> object:
    """Return a plugin that answers the example's tool."""
    from bf_plugin import Toolbox

    tools = Toolbox("weather")

    @tools.tool()
    def getCurrentWeather(location: str) -> str:  # noqa: N802 - the published example's name
        """Get the current weather in a given location."""
        return "sunny"

    return tools


def test_no_event_before_the_answer(deploy: Deploy) -> None:
    """The model has said everything, yet nothing is sent while the answer of the start is still on its way."""
    leaving, arrived = threading.Event(), threading.Event()

    def slow_answers(app: Any) -> Any:
        """Hold the answer of a streaming start between its last byte and its end."""

        def slow(environ: dict[str, Any], start_response: Any) -> Any:
            return Held(app(environ, start_response))

        return slow

    class Held:
        def __init__(self, answer: Any) -> None:
            self._answer = answer

        def __iter__(self) -> Any:
            yield from self._answer
            if not leaving.is_set():
                leaving.set()
                assert arrived.wait(20)

        def close(self) -> None:
            self._answer.close()

    deployed = deploy(wrap=slow_answers)
    deployed.provider.script("Hello", "Second")
    run = deployed.start()
    assert leaving.wait(10)
    deployed.provider.wait_until(lambda: [one.status for one in deployed.provider.responses.values()] == ["completed"])
    with requests.Session() as meanwhile:  # the first connection is still busy
        polled = meanwhile.post(run_url(deployed), json=deployed.body(stream=False), timeout=20)

    assert polled.json()["status"] == "done"
    assert deployed.gateway.attempts == []
    arrived.set()
    assert [event["type"] for event in deployed.events(run)] == ["threadInfo", "delta", "end"]


def test_every_channel(deployed: Deployment) -> None:
    """Every event goes to every channel; a single string is a list of one."""
    deployed.provider.script("one", "two")
    many = deployed.post("", {**deployed.body(), "channels": ["a", "b", "c"]}).json()
    deployed.events(many)
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {("a", "b", "c")}

    deployed.gateway.clear()
    one = deployed.post("", {**deployed.body(), "channels": "alone"}).json()
    deployed.events(one)
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {("alone",)}


def test_as_much_as_is_allowed(deployed: Deployment) -> None:
    """20 channels of 200 characters and 100 messages are taken, and all of them used."""
    deployed.provider.script("Hello")
    channels = [f"{number:0200}" for number in range(20)]
    messages = [{"role": "user", "content": str(number)} for number in range(100)]

    answer = deployed.post("", {**deployed.body(messages=messages), "channels": channels})

    assert answer.status_code == 201, answer.text
    deployed.events(answer.json())
    assert {tuple(attempt.channels) for attempt in deployed.gateway.attempts} == {tuple(channels)}
    assert [item["content"][0]["text"] for item in deployed.asked[0]["input"]] == [str(n) for n in range(100)]


@pytest.mark.parametrize("key", ["BFAPI_other", "BFAPI_", "", "nonsense", "BFAPI_ä", "BFAPI_x\n"])
def test_unknown_app_key(deployed: Deployment, key: str) -> None:
    """A key the gateway does not know is 401, whatever it looks like, and nothing is asked of the provider."""
    error = deployed.refused(401, {**deployed.body(), "apiKey": key})

    assert (error["name"], error["className"]) == ("NotAuthenticated", "not-authenticated")
    assert "apiKey" in error["errors"]
    assert deployed.asked == []


def test_missing_app_key(deployed: Deployment) -> None:
    """Without a key in body or header a start is 401."""
    error = deployed.refused(401, changed(deployed.body(), "apiKey", ...))

    assert error["errors"] == {"apiKey": "is required"}


def test_app_key_in_header(deployed: Deployment) -> None:
    """The app key may come as `X-Api-Key`."""
    deployed.provider.script("Hello")

    answer = deployed.post("", changed(deployed.body(), "apiKey", ...), headers={"X-Api-Key": APP_KEY})

    assert answer.status_code == 201
    assert deployed.events(answer.json())[-1]["type"] == "end"


def test_keys_of_any_length(deploy: Deploy) -> None:
    """App keys are `BFAPI_` and letters, digits, dashes, of any length."""
    key = "BFAPI_" + "a1-" * 60
    deployed = deploy(api_keys=f"BFAPI_a,{key}", messaging="http")
    deployed.gateway.keys = frozenset({"BFAPI_a", key})
    deployed.provider.script("one", "two")

    for each in ("BFAPI_a", key):
        run = deployed.post("", {**deployed.body(), "apiKey": each})
        assert run.status_code == 201
        assert deployed.events(run.json())[-1]["type"] == "end"
