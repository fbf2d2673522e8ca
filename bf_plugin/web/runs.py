"""The resources that act on runs: start one, stop one, answer its `ui_` tool."""

from __future__ import annotations

from typing import Any

import falcon

from bf_plugin.bodies import StartRequest, parse_start, parse_stop, parse_tool_answer
from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import Apps
from bf_plugin.gateway.host import host_environ
from bf_plugin.runtime.paths import AFTER
from bf_plugin.runtime.tracecontext import trace_context
from bf_plugin.settings import Settings
from bf_plugin.usecases.once import Once, claim_of
from bf_plugin.usecases.start import Origin, Started
from bf_plugin.usecases.stop import Stops
from bf_plugin.web.cors import Resource
from bf_plugin.web.reading import app_key, authenticate, read_json


class StartResource(Resource):
    """`POST /stream/create/assistants`."""

    def __init__(self, once: Once, apps: Apps, settings: Settings) -> None:
        self._once = once
        self._apps = apps
        self._limit = settings.body_limit

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Start a run: 201 when it streams, 200 when it has ended."""
        body = read_json(req, self._limit)
        request = parse_start(body)
        app = authenticate(self._apps, req, request.api_key)
        trace = trace_context(req.get_header("traceparent"), req.get_header("tracestate"))
        origin = Origin(request_id=req.context.request_id, host_environ=host_environ(req.env), trace=trace)
        claim = claim_of(req.get_header("Idempotency-Key"), body)
        started = self._once.start(request, app, origin, claim)
        req.env.setdefault(AFTER, []).append(started.release)
        resp.status = falcon.HTTP_201 if request.stream else falcon.HTTP_200
        resp.media = _answer(request, started)


class StopResource(Resource):
    """`POST /stream/create/assistants/stop`."""

    cross_origin = ("POST",)

    def __init__(self, stops: Stops, apps: Apps, settings: Settings) -> None:
        self._stops = stops
        self._apps = apps
        self._limit = settings.body_limit
        self._needs_key = settings.stop_needs_key

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stop a run, gracefully whatever its state."""
        request = parse_stop(read_json(req, self._limit))
        status = self._stops.stop(request, self._app_id(req, request.api_key))
        resp.media = {"success": True, "status": status, "threadId": request.thread_id, "runId": request.run_id}

    def _app_id(self, req: falcon.Request, sent: str | None) -> str | None:
        """Return the app of a sent key, None without a key. A key that nobody knows belongs to no app: ""."""
        if not (self._needs_key or app_key(req, sent)):
            return None
        try:
            return authenticate(self._apps, req, sent).id
        except RequestError as error:
            if self._needs_key or error.code != 401:
                raise
            return ""


class ToolResponseResource(Resource):
    """`POST /llm/tool-response` and `POST /stream/create/assistants/tool-response`."""

    cross_origin = ("POST",)

    def __init__(self, stops: Stops, settings: Settings) -> None:
        self._stops = stops
        self._limit = settings.body_limit

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Take a page's answer; one that comes late is ignored, not refused."""
        answer = parse_tool_answer(read_json(req, self._limit))
        resp.media = {"success": True, "status": self._stops.answer_tool(answer)}


def _answer(request: StartRequest, started: Started) -> dict[str, Any]:
    ids = {"threadId": started.thread_id, "runId": started.run_id}
    warnings = {"warnings": list(started.warnings)} if started.warnings else {}
    ending = started.ending
    if ending is None:
        return {"success": True, **ids, "status": "created", **warnings}
    return {
        "success": True,
        "data": list(ending.content),
        **ids,
        "status": "done" if ending.status == "completed" else ending.status,
        "usage": ending.usage.as_json(),
        "finish_reason": ending.finish_reason,
        **warnings,
    }
