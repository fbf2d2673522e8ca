"""The page's handler in a process of Node.js, and the events it is given."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import bf_plugin
from programs import program

HANDLER = Path(bf_plugin.__file__).with_name("browser") / "handler.js"


DRIVER = Path(__file__).with_name("browser_driver.mjs")


RUN = {"threadId": "thread_1", "runId": "run_1"}


ASSISTANTS = "/stream/create/assistants"


class Node:
    """One node process that has loaded the handler."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [program("node"), str(DRIVER), str(HANDLER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str, **args: Any) -> Any:
        """Run the body of an async JavaScript function and return what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": code, "args": args}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self) -> None:
        self._process.communicate(timeout=10)


def event(seq: int, kind: str, **rest: Any) -> dict[str, Any]:
    return {"type": kind, **rest, **RUN, "seq": seq}


def units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def conversation(parts: list[str | None]) -> tuple[str, list[dict[str, Any]]]:
    """Return the text and the events of a run: a delta for each string, a function_call for each None."""
    text, events = "", [event(1, "threadInfo", content={"assistantThreadId": "thread_1", "runId": "run_1"})]
    for part in parts:
        if part is None:
            functions = [{"name": f"tool{len(events)}", "userMessage": None}]
            events.append(event(len(events) + 1, "function_call", content={"functions": functions}))
        else:
            events.append(event(len(events) + 1, "delta", content=part, offset=units(text)))
            text += part
    events.append(event(len(events) + 1, "end", finish_reason="stop", usage={"total_tokens": 3}))
    return text, events


parts = st.lists(st.none() | st.text(min_size=1, max_size=6) | st.sampled_from(["🌦️", "👩‍👩‍👧", "𝒳y"]), max_size=8)
