"""The bodies about a run that is under way: stop it, answer its `ui_` tool."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from bf_plugin.bodies.body import Body, check


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest:
    """Which run to stop; knowing both ids is the permission."""

    thread_id: str = field(repr=False)
    run_id: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """A page's answer to one call: `output`, for the model, is the JSON text of all it sent but the call's id."""

    tool_call_id: str = field(repr=False)
    output: str = field(repr=False)


class Stop(Body):
    """Stop a run."""

    thread_id: str = Field(alias="threadId")
    run_id: str = Field(alias="runId")
    api_key: str | None = Field(None, alias="apiKey")


class Answer(Body):
    """Answer a `ui_` tool; all other keys (`success`, `message`, `data`, ...) become the tool's output."""

    tool_call_id: Annotated[str, Field(min_length=1)] = Field(alias="toolCallId")


def parse_stop(body: Mapping[str, Any]) -> StopRequest:
    """Return the request in `body`. Raises RequestError 400 that names each missing or bad field."""
    stop = check(Stop, body)
    return StopRequest(thread_id=stop.thread_id, run_id=stop.run_id, api_key=stop.api_key or None)


def parse_tool_answer(body: Mapping[str, Any]) -> ToolAnswer:
    """Return the answer in `body`. Raises RequestError 400 when `toolCallId` is missing or no string."""
    answer = check(Answer, body)
    output = {key: value for key, value in body.items() if key != "toolCallId"}
    return ToolAnswer(tool_call_id=answer.tool_call_id, output=json.dumps(output, ensure_ascii=False))
