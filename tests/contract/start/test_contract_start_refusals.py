"""Starting a run: the request's fields and bodies that are refused, one by one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bf_plugin.testing.deployment import Deployment
from starts import FLAT_TOOL, changed, run_url

LONG = "x" * 201
REFUSED: list[tuple[str, Any, str]] = [
    ("channels", ..., "channels"),
    ("channels", [], "channels"),
    ("channels", [""], "channels.0"),
    ("channels", [LONG], "channels.0"),
    ("channels", ["c"] * 21, "channels"),
    ("channels", [1], "channels.0"),
    ("channels", {"a": 1}, "channels"),
    ("actionName", ..., "actionName"),
    ("actionName", "", "actionName"),
    ("actionName", "1a", "actionName"),
    ("actionName", "a b", "actionName"),
    ("actionName", "function", "actionName"),
    ("actionName", "a" * 129, "actionName"),
    ("actionName", "ok\n", "actionName"),
    ("actionName", 7, "actionName"),
    ("payload", ..., "payload"),
    ("payload", [], "payload"),
    ("payload.provider", "nobody", "payload.provider"),
    ("payload.provider", 7, "payload.provider"),
    ("payload.stream", "true", "payload.stream"),
    ("payload.stream", 1, "payload.stream"),
    ("payload.messages", ..., "payload.messages"),
    ("payload.messages", [], "payload.messages"),
    ("payload.messages", "Hi", "payload.messages"),
    ("payload.messages", [{"role": "user", "content": "x"}] * 101, "payload.messages"),
    ("payload.messages.0", "Hi", "payload.messages.0"),
    ("payload.messages.0.role", "tool", "payload.messages.0.role"),
    ("payload.messages.0.role", ..., "payload.messages.0.role"),
    ("payload.messages.0.content", 7, "payload.messages.0.content"),
    ("payload.messages.0.content", ..., "payload.messages.0.content"),
    ("payload.messages.0.content", [{"type": "audio"}], "payload.messages.0.content.0.type"),
    ("payload.messages.0.content", [{"type": "text"}], "payload.messages.0.content.0.text"),
    (
        "payload.messages.0.content",
        [{"type": "image_url", "image_url": {}}],
        "payload.messages.0.content.0.image_url.url",
    ),
    ("payload.thread_id", 7, "payload.thread_id"),
    ("payload.model", 7, "payload.model"),
    ("payload.instructions", 7, "payload.instructions"),
    ("payload.tools", {}, "payload.tools"),
    ("payload.tools", [{"type": "web_search"}], "payload.tools.0.type"),
    ("payload.tools", [{"type": "function"}], "payload.tools.0.function"),
    ("payload.tools", [{"type": "function", "function": {}}], "payload.tools.0.function.name"),
    ("payload.tools", [{"type": "function", "function": {"name": "a b"}}], "payload.tools.0.function.name"),
    ("payload.tools", [FLAT_TOOL, FLAT_TOOL], "payload.tools.1"),
    (
        "payload.tools",
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
        "payload.tools.0.function.parameters",
    ),
    ("payload.tool_choice", 7, "payload.tool_choice"),
    ("payload.tool_choice", "sometimes", "payload.tool_choice"),
    ("payload.temperature", "hot", "payload.temperature"),
    ("payload.temperature", 2.1, "payload.temperature"),
    ("payload.top_p", -0.1, "payload.top_p"),
    ("payload.response_format", {"type": "xml"}, "payload.response_format.type"),
    ("payload.metadata", {"a": 1}, "payload.metadata.a"),
    ("payload.metadata", {str(n): "" for n in range(17)}, "payload.metadata"),
    ("payload.max_completion_tokens", 0, "payload.max_completion_tokens"),
    ("payload.reasoning_effort", "extreme", "payload.reasoning_effort"),
    ("payload.parallel_tool_calls", "no", "payload.parallel_tool_calls"),
    ("payload.additional_messages", [{"role": "x", "content": "y"}], "payload.additional_messages.0.role"),
    ("providerArgs", [], "providerArgs"),
    ("providerArgs", {"store": False}, "providerArgs.store"),
    ("providerArgs", {"previous_response_id": "resp_1"}, "providerArgs.previous_response_id"),
    ("providerArgs", {"conversation": "conv_1"}, "providerArgs.conversation"),
    ("providerArgs", {"model": "other"}, "providerArgs.model"),
    ("providerArgs", {"text": {"format": {}}}, "providerArgs.text.format"),
    ("payload.providerArgs", {"input": []}, "payload.providerArgs.input"),
]


@pytest.mark.parametrize(("path", "value", "field"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(deployed_once: Deployment, path: str, value: Any, field: str) -> None:
    """A field that is missing or wrong is 400, and the error names it."""
    body = deployed_once.body()

    error = deployed_once.refused(400, changed(body, path, value))

    assert field in error["errors"]
    assert error["message"].startswith(next(iter(error["errors"])))
    assert error["name"] == "BadRequest"
    assert deployed_once.asked == []


@pytest.fixture(scope="module")
def deployed_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One deployment for all the tests that only ask for refusals."""
    with Deployment(folder=tmp_path_factory.mktemp("start"), model=None) as deployed:
        yield deployed


def test_unknown_provider_lists_known(deployed_once: Deployment) -> None:
    """A provider no engine answers to is refused with a list of those that do."""
    error = deployed_once.refused(400, deployed_once.body(provider="nobody", model="m"))

    assert "openai" in error["message"]


def test_model_is_required(deployed_once: Deployment) -> None:
    """Without a model, neither sent nor configured, a start is 400: there is no built-in default."""
    error = deployed_once.refused(400, deployed_once.body())

    assert list(error["errors"]) == ["payload.model"]


def test_provider_key_is_required(deployed_once: Deployment) -> None:
    """Without a provider key, neither sent nor configured, a start is 400."""
    error = deployed_once.refused(400, deployed_once.body(apiKey=None, model="m"))

    assert list(error["errors"]) == ["payload.apiKey"]


@pytest.mark.parametrize("name", ["a", "_a", "$a", "a.b-c_d$e", "handleAssistantResponse", "a" * 128])
def test_action_names(deployed: Deployment, name: str) -> None:
    """Action names of JavaScript's shape, with dots and dashes, are taken and called."""
    deployed.provider.script("Hello")

    run = deployed.post("", {**deployed.body(), "actionName": name})

    assert run.status_code == 201
    deployed.events(run.json())
    assert {action["name"] for action in deployed.gateway.actions()} == {name}


def send(deployed: Deployment, data: bytes, **headers: str) -> Any:
    """POST raw bytes to the start."""
    return deployed.http.post(
        run_url(deployed), data=data, headers={"Content-Type": "application/json", **headers}, timeout=30
    )


def test_comments_are_not_json(deployed_once: Deployment) -> None:
    """Comments are 400 that points at line and column (the published example has one)."""
    answer = send(deployed_once, b'{\n  "apiKey": "x", // Optional\n  "channels": []\n}')

    assert answer.status_code == 400
    assert "line 2, column 18" in answer.json()["message"]
    assert "comments" in answer.json()["message"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff{}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
    ],
)
def test_bad_json(deployed_once: Deployment, data: bytes) -> None:
    """Whatever is no JSON object is 400 that names the body."""
    answer = send(deployed_once, data)

    assert answer.status_code == 400
    assert list(answer.json()["errors"]) == ["body"]


def test_body_limit(deployed_once: Deployment) -> None:
    """A body may have 1 MiB; one byte more is 413."""
    body = json.dumps(deployed_once.body()).encode()
    limit = 1024 * 1024

    fits = send(deployed_once, body.ljust(limit))
    over = send(deployed_once, body.ljust(limit + 1))

    assert fits.status_code == 400  # no model: it was read
    assert over.status_code == 413
    assert over.json()["className"] == "payload-too-large"


def test_body_limit_without_length(deployed_once: Deployment) -> None:
    """A chunked body is measured too."""
    answer = deployed_once.http.post(
        run_url(deployed_once),
        data=(b" " * 65536 for _ in range(20)),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )

    assert answer.status_code == 413


def test_content_type(deployed_once: Deployment) -> None:
    """Another kind of body is 415."""
    answer = send(deployed_once, b"a=1", **{"Content-Type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 415
    assert answer.json()["name"] == "UnsupportedMediaType"
