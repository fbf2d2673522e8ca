"""Bodies to frozen values; all validation of requests is here. Called by the resources."""

from __future__ import annotations

from bf_plugin.bodies.assistants import check_assistants, check_operator_resources, merge_assistant
from bf_plugin.bodies.body import parse_json
from bf_plugin.bodies.start import StartRequest, parse_start, valid_action_name
from bf_plugin.bodies.stop import StopRequest, parse_stop
from bf_plugin.bodies.toolanswer import ToolAnswer, parse_tool_answer
from bf_plugin.bodies.tools import parse_tools

__all__ = [
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
