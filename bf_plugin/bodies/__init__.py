"""Request bodies to frozen values: all validation is here. `web` parses with it; `usecases` and `run` apply its rules.

`tools`, `messages`, `options` and `payload` are models of what callers send, `uitools` says what may go to a page.
"""

from __future__ import annotations

from bf_plugin.bodies.assistants import check_assistants, check_operator_resources, merge_assistant
from bf_plugin.bodies.body import parse_json
from bf_plugin.bodies.followups import Answer, Stop, StopRequest, ToolAnswer, parse_stop, parse_tool_answer
from bf_plugin.bodies.payload import PollingStart, StreamingStart
from bf_plugin.bodies.start import StartRequest, parse_start, valid_action_name
from bf_plugin.bodies.tools import parse_tools

__all__ = [
    "REQUEST_MODELS",
    "StartRequest",
    "StopRequest",
    "ToolAnswer",
    "check_assistants",
    "check_operator_resources",
    "merge_assistant",
    "parse_json",
    "parse_start",
    "parse_stop",
    "parse_tool_answer",
    "parse_tools",
    "valid_action_name",
]

REQUEST_MODELS = (StreamingStart, PollingStart, Stop, Answer)
"""The bodies as they are described to callers."""
