"""A FileMaker Server with an order in it, and what an operator would write to use it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bf_hook_filemaker.testing import Ended, FakeFileMaker, Script

NUMBER = {"type": "object", "required": ["number"], "properties": {"number": {"type": "integer", "minimum": 1000}}}

Sections = Callable[..., dict[str, Any]]


def find_order(parameter: str) -> Ended | str:
    """Answer as a script would: an order, or error 401."""
    number = json.loads(parameter)["arguments"]["number"]
    return json.dumps({"number": number, "status": "shipped"}) if number == 1001 else Ended(error=401)


class Held:
    """A script that runs until it is let go; `started` counts its starts."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, parameter: str) -> str:
        self.started.release()
        self.go.wait(30)
        return "done"

    def wait_started(self, times: int = 1) -> None:
        """Wait until it was started so many times more."""
        for _ in range(times):
            assert self.started.acquire(timeout=10)


@pytest.fixture
def held() -> Iterator[Held]:
    """A script that runs until the test, or its end, lets it go."""
    script = Held()
    yield script
    script.go.set()


@pytest.fixture
def server(held: Held) -> Iterator[FakeFileMaker]:
    """A FileMaker Server on 127.0.0.1."""
    scripts: dict[str, Script] = {
        "find order": find_order,
        "echo": lambda parameter: parameter,
        "hold": held,
        "say nothing": lambda _: None,
        "say text": lambda _: "Grüße, 42 Stück",
    }
    with FakeFileMaker(scripts) as running:
        yield running


@pytest.fixture
def section(server: FakeFileMaker) -> Sections:
    """Return a function that makes settings with one tool, `find_order`, on one connection; `changes` are its own."""

    def make(*, connection: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        base = {"description": "Find an order.", "script": "find order", "layout": "API", "parameters": NUMBER}
        tool = {name: value for name, value in {**base, **changes}.items() if value is not None}
        return {"connections": {"sales": server.connection(**(connection or {}))}, "tools": {"find_order": tool}}

    return make
