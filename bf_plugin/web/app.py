"""The Falcon application: its routes, and the one place where errors become HTTP. `assembly` makes it."""

from __future__ import annotations

import math
from typing import Any

import falcon

from bf_plugin.errors import BFError, JournalError, RequestError, error_body
from bf_plugin.gateway.apps import Apps
from bf_plugin.plugins.loaded import Plugins
from bf_plugin.run.ending import request_error
from bf_plugin.runtime.logs import get_logger, request_id
from bf_plugin.runtime.paths import PREFIX, TOOL_RESPONSE
from bf_plugin.settings import Settings
from bf_plugin.usecases.delete import Deletion
from bf_plugin.usecases.inspection import Inspection
from bf_plugin.usecases.once import Once
from bf_plugin.usecases.stop import Stops
from bf_plugin.web.cors import CrossOrigin
from bf_plugin.web.health import HealthzResource, PluginsResource, ReadyzResource
from bf_plugin.web.inspection import EventsResource, MessagesResource, RunResource, ThreadResource
from bf_plugin.web.openapi import OpenAPIResource
from bf_plugin.web.runs import StartResource, StopResource, ToolResponseResource

_log = get_logger(__name__)


def create_app(
    once: Once,
    stops: Stops,
    inspection: Inspection,
    deletion: Deletion,
    apps: Apps,
    ready: ReadyzResource,
    plugins: Plugins,
    settings: Settings,
) -> falcon.App[Any, Any]:
    """Return the WSGI app of our routes. It starts nothing: all collaborators come in."""
    app = falcon.App(middleware=RequestIds())
    app.add_middleware(CrossOrigin(settings.names("cors_origins")))
    app.req_options.strip_url_path_trailing_slash = True
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(BFError, _on_error)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    answers = ToolResponseResource(stops, settings)
    for path, resource in (
        ("", StartResource(once, apps, settings)),
        ("/stop", StopResource(stops, apps, settings)),
        ("/tool-response", answers),
        ("/runs/{run_id}", RunResource(inspection)),
        ("/runs/{run_id}/events", EventsResource(inspection)),
        ("/threads/{thread_id}", ThreadResource(deletion, apps)),
        ("/threads/{thread_id}/messages", MessagesResource(inspection, apps)),
        ("/openapi.json", OpenAPIResource(sorted(plugins.engines))),
        ("/healthz", HealthzResource()),
        ("/readyz", ready),
        ("/plugins", PluginsResource(plugins, apps)),
    ):
        app.add_route(PREFIX + path, resource)
    app.add_route(TOOL_RESPONSE, answers)
    return app


class RequestIds:
    """Takes a well-formed `X-Request-ID` from the caller, else makes one, and echoes it in every answer."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name the request."""
        req.context.action_name = None  # until the body is read
        req.context.request_id = request_id(req.get_header("X-Request-ID"))
        resp.set_header("X-Request-ID", req.context.request_id)
        resp.set_header("Cache-Control", "no-store")


def _on_error(req: falcon.Request, resp: falcon.Response, error: BFError, _: Any) -> None:
    if not isinstance(error, RequestError):
        trace = None if isinstance(error, JournalError) else error
        _log.bind(request_id=req.context.request_id).error("cannot serve the request: %s", error, error=trace)
    _answer(req, resp, request_error(error))


def _on_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _: Any) -> None:
    """Give Falcon's own errors (no such route, wrong method) our body, and keep their headers (`Allow`)."""
    if error.headers:
        resp.set_headers(error.headers)
    status = falcon.http_status_to_code(error.status)
    messages = {404: "there is no such resource", 405: "this resource does not take that method"}
    _answer(req, resp, RequestError(status, messages.get(status) or error.description or error.title or "bad request"))


def _on_unexpected(req: falcon.Request, resp: falcon.Response, error: Exception, _: Any) -> None:
    _log.bind(request_id=req.context.request_id).error(
        "a request failed on a bug: %s", type(error).__name__, error=error
    )
    _answer(req, resp, request_error(error))


def _answer(req: falcon.Request, resp: falcon.Response, error: RequestError) -> None:
    resp.status = error.code
    if error.retry_after is not None:
        resp.set_header("Retry-After", str(max(1, math.ceil(error.retry_after))))
    resp.media = error_body(error, request_id=req.context.request_id, action_name=req.context.action_name)
