"""`bf-plugin demo` as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from bf_plugin.cli.demo import demo
from bf_plugin.demo.gateway import PUBLISHED_KEY
from bf_plugin.demo.server import Demo

EXAMPLE = {
    "apiKey": PUBLISHED_KEY,
    "channels": ["user-conversation-channel-123"],
    "actionName": "handleAssistantResponse",
    "payload": {
        "provider": "openai",
        "apiKey": "sk-xxxxxxx-xxxxxxxx-xxxxxxx",
        "stream": True,
        "model": "gpt-4-turbo",
        "instructions": "You are a helpful assistant that provides concise answers.",
        "messages": [{"role": "user", "content": "What's the weather like in San Francisco?"}],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "getCurrentWeather",
                    "description": "Get the current weather in a given location",
                    "parameters": {
                        "type": "object",
                        "properties": {
                            "location": {
                                "type": "string",
                                "description": "The city and state, e.g. San Francisco, CA",
                            }
                        },
                        "required": ["location"],
                    },
                },
            }
        ],
    },
}
"""The request of the published page, without its comments and its `thread_id`."""

START = "/stream/create/assistants"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing set that changes the demo; temporary files go to a folder of the test."""
    for name in list(os.environ):
        if name.startswith(("BF_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def running(environment: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and the address it printed."""
    code = "from bf_plugin.cli.demo import demo; demo()"
    with subprocess.Popen([sys.executable, "-c", code, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield process, found.group()
        process.kill()


def test_runs_until_interrupted(running: tuple[subprocess.Popen[str], str], environment: Path) -> None:
    """It prints where it is, serves the page, and Ctrl-C ends it cleanly, its database with it."""
    process, url = running
    assert "<title>" in requests.get(url, timeout=10).text
    assert list(environment.iterdir())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert list(environment.iterdir()) == []


def test_answers_the_published_example(environment: Path) -> None:
    """The example request, as published, gets the published answer and its events in the published order."""
    with Demo(pace=0) as demo:
        answer = requests.post(demo.url + START, json=EXAMPLE, timeout=20)
        assert answer.status_code == 201
        body = answer.json()
        assert {"success": True, "status": "created"}.items() <= body.items()
        types = [event["type"] for event in demo.gateway.wait_for_end(body["runId"])]
    joined = [kind for kind, before in zip(types, [None, *types], strict=False) if kind != before]
    assert joined == ["threadInfo", "delta", "function_call", "delta", "end"]


def test_refuses_other_keys(environment: Path) -> None:
    """The demo's gateway knows two keys, so that asking it about keys means something."""
    with Demo(pace=0) as demo:
        answer = requests.post(demo.url + START, json={**EXAMPLE, "apiKey": "BFAPI_someone-else"}, timeout=20)
    assert answer.status_code == 401


def test_a_real_provider_needs_a_model(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider of the operator's own, the model is the operator's to name."""
    monkeypatch.setenv("BF_OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    result = CliRunner().invoke(demo, ["--port", "0"])
    assert result.exit_code == 1
    assert "BF_MODEL" in result.output


def test_says_that_the_port_is_taken(environment: Path) -> None:
    """A port in use is named, with what to do."""
    with Demo() as other:
        port = other.url.rpartition(":")[2]
        result = CliRunner().invoke(demo, ["--port", port])
    assert result.exit_code == 1
    assert f"port {port}" in result.output
    assert "--port" in result.output
    assert list(environment.iterdir()) == []
