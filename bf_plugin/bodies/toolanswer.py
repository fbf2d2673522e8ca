"""The body a page answers a `ui_` tool with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from bf_plugin.bodies.body import Body, check


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnswer:
    """The answer to one call: `output`, for the model, is the JSON text of all the page sent but the call's id."""

    tool_call_id: str = field(repr=False)
    output: str = field(repr=False)


class Answer(Body):
    """Answer a `ui_` tool; all other keys (`success`, `message`, `data`, ...) become the tool's output."""

    tool_call_id: Annotated[str, Field(min_length=1)] = Field(alias="toolCallId")


def parse_tool_answer(body: Mapping[str, Any]) -> ToolAnswer:
    """Return the answer in `body`. Raises RequestError 400 when `toolCallId` is missing or no string."""
    answer = check(Answer, body)
    output = {key: value for key, value in body.items() if key != "toolCallId"}
    return ToolAnswer(tool_call_id=answer.tool_call_id, output=json.dumps(output, ensure_ascii=False))
