"""Start a run, stop a run."""

from __future__ import annotations

from typing import Any

import falcon

from bf_plugin.bodies import StartRequest, parse_start, parse_stop
from bf_plugin.errors import RequestError
from bf_plugin.gateway.apps import App, Apps
from bf_plugin.gateway.host import host_environ
from bf_plugin.runtime.paths import AFTER
from bf_plugin.runtime.tracecontext import trace_context
from bf_plugin.settings import Settings
from bf_plugin.usecases.once import Starts, claim_of
from bf_plugin.usecases.runs import Origin, Runs, Started
from bf_plugin.web.resources.body import read_json


def authenticate(apps: Apps, req: falcon.Request, sent: str | None) -> App:
    """Return the app of the key in the body, or in `X-Api-Key`. Raises RequestError 401."""
    key = sent or req.get_header("X-Api-Key")
    if not key:
        raise RequestError(401, "apiKey is required", errors={"apiKey": "is required"})
    return apps.authenticate(key, req.env)


class StartResource:
    """`POST /stream/create/assistants`."""

    def __init__(self, starts: Starts, apps: Apps, settings: Settings) -> None:
        self._starts = starts
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
        started = self._starts.start(request, app, origin, claim)
        req.env.setdefault(AFTER, []).append(started.release)
        resp.status = falcon.HTTP_201 if request.stream else falcon.HTTP_200
        resp.media = _answer(request, started)


class StopResource:
    """`POST /stream/create/assistants/stop`."""

    cross_origin = ("POST",)

    def __init__(self, runs: Runs, apps: Apps, settings: Settings) -> None:
        self._runs = runs
        self._apps = apps
        self._limit = settings.body_limit
        self._needs_key = settings.stop_needs_key

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Stop a run, gracefully whatever its state."""
        request = parse_stop(read_json(req, self._limit))
        status = self._runs.stop(request, self._app_id(req, request.api_key))
        resp.media = {
            "success": True,
            "status": status,
            "threadId": request.thread_id,
            "runId": request.run_id,
        }

    def _app_id(self, req: falcon.Request, sent: str | None) -> str | None:
        """Return the app a sent key stands for, None without a key. A key nobody knows is no app's."""
        if self._needs_key:
            return authenticate(self._apps, req, sent).id
        key = sent or req.get_header("X-Api-Key")
        if not key:
            return None
        try:
            return self._apps.authenticate(key, req.env).id
        except RequestError as error:
            if error.code != 401:
                raise
            return ""


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
