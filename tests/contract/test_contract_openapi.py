"""The served description is true: what schemathesis makes of it, sent to every resource."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from bf_plugin.testing.deployment import APP_KEY, PROVIDER_KEY, Deployment
from bf_plugin.web.openapi import document

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for everything schemathesis sends; what it starts ends soon."""
    with Deployment(
        folder=tmp_path_factory.mktemp("openapi"), run_timeout=5, api_keys=APP_KEY, messaging="http"
    ) as one:
        one.provider.brain = lambda request: "Hello"
        yield one


@pytest.fixture(scope="module")
def description(served: Deployment) -> Any:
    """The description as the deployment serves it."""
    return schemathesis.openapi.from_url(served.url + "/stream/create/assistants/openapi.json")


def requests_of(mode: Any) -> list[Any]:
    """Return (path, method) of each operation that can be sent rightly, or wrongly."""
    return [
        pytest.param(path, method.upper(), mode, id=f"{operation['operationId']}-{mode.value}")
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if mode is GenerationMode.POSITIVE or operation.keys() & {"requestBody", "parameters"}
    ]


MODES = pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)


def send(operation: Any, mode: GenerationMode, examples: int, check: Callable[[Any], None]) -> None:
    """Let hypothesis make `examples` requests of one operation, and `check` send them."""

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def sent(case: Any) -> None:
        check(case)

    sent()


@pytest.mark.parametrize(
    ("path", "method", "mode"), [*requests_of(GenerationMode.POSITIVE), *requests_of(GenerationMode.NEGATIVE)]
)
def test_as_described(description: Any, path: str, method: str, mode: GenerationMode) -> None:
    """Whatever is sent, valid or not, the answer is one that the description knows, and no bug."""

    def check(case: Any) -> None:
        case.validate_response(case.call(timeout=30), checks=CHECKS)

    send(description[path][method], mode, 25, check)


@MODES
def test_starts(description: Any, served: Deployment, mode: GenerationMode) -> None:
    """The same with a key that is known: what is described starts runs of both kinds, what is not is refused."""

    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body["apiKey"] = APP_KEY
            if isinstance(payload := case.body.get("payload"), dict) and mode is GenerationMode.POSITIVE:
                payload["apiKey"] = PROVIDER_KEY
                payload["provider"] = "openai"  # the engines of installed distributions would ask servers elsewhere
                for unknown in ("thread_id", "threadId", "assistantThreadId", "assistant_id"):
                    payload.pop(unknown, None)
        for header in ("X-Api-Key", "Idempotency-Key"):
            case.headers.pop(header, None)
        answer = case.call(timeout=30)
        case.validate_response(answer, checks=CHECKS)
        seen.append(answer.status_code)

    seen: list[int] = []
    send(description["/stream/create/assistants"]["POST"], mode, 50 if mode is GenerationMode.POSITIVE else 20, check)

    assert set(seen) >= ({200, 201} if mode is GenerationMode.POSITIVE else {400})
