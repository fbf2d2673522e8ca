"""Answers of pages to `ui_` tools."""

from __future__ import annotations

import falcon

from bf_plugin.bodies import parse_tool_answer
from bf_plugin.settings import Settings
from bf_plugin.usecases.runs import Runs
from bf_plugin.web.resources.body import read_json


class ToolResponseResource:
    """`POST /llm/tool-response` and `POST /stream/create/assistants/tool-response`."""

    cross_origin = ("POST",)

    def __init__(self, runs: Runs, settings: Settings) -> None:
        self._runs = runs
        self._limit = settings.body_limit

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take an answer; one that comes late is ignored, not refused."""
        answer = parse_tool_answer(read_json(req, self._limit))
        resp.media = {"success": True, "status": self._runs.answer_tool(answer)}
