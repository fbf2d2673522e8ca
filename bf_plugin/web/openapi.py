"""The API's own description (OpenAPI 3.1), with the request schemas taken from the models that check the requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import falcon
from pydantic.json_schema import models_json_schema

from bf_plugin.bodies import REQUEST_MODELS
from bf_plugin.runtime.paths import PREFIX, TOOL_RESPONSE
from bf_plugin.web import schemas
from bf_plugin.web.cors import Resource
from bf_plugin.web.schemas import answer, errors

_BODY_ERRORS = (400, 413, 415, 500, 503)
_ONCE = "The same key and body within 24 hours get the first answer and start nothing; another body gets 422."
_TWO_IDS = "The two ids are the permission; the thread's comes as the header `X-Thread-Id` or in the query."
_NEEDS_KEY: Mapping[str, Any] = {"security": [{"appKey": []}]}
_TAKES_KEY: Mapping[str, Any] = {"security": [{"appKey": []}, {}]}


class OpenAPIResource(Resource):
    """`GET .../openapi.json`."""

    def __init__(self, providers: Sequence[str]) -> None:
        self._document = document(providers)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Serve the document."""
        resp.media = self._document


def document(providers: Sequence[str] = ("openai",)) -> dict[str, Any]:
    """Return the document; `providers` are the engines' names.

    Paths are below wherever the plugin is mounted; what serves the document may add `servers`.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BetterForms assistants",
            "version": version("bf_plugin"),
            "description": "Stateful assistant conversations whose answers are streamed over BetterForms messaging.",
        },
        "paths": {
            PREFIX: {"post": _start()},
            f"{PREFIX}/stop": {"post": _stop()},
            f"{PREFIX}/tool-response": {"post": _tool_response("answerTool", 404)},
            TOOL_RESPONSE: {"post": _shared_tool_response()},
            f"{PREFIX}/runs/{{runId}}": {"get": _run()},
            f"{PREFIX}/runs/{{runId}}/events": {"get": _events()},
            f"{PREFIX}/threads/{{threadId}}": {"delete": _delete()},
            f"{PREFIX}/threads/{{threadId}}/messages": {"get": _messages()},
            f"{PREFIX}/openapi.json": {"get": _get("describe", "This document", {"type": "object"})},
            f"{PREFIX}/healthz": {"get": _get("health", "Whether this process answers", schemas.HEALTH)},
            f"{PREFIX}/readyz": {"get": _ready()},
            f"{PREFIX}/plugins": {"get": _plugins()},
        },
        "components": {
            "schemas": {**_request_schemas(providers), "Error": schemas.ERROR, "Usage": schemas.USAGE},
            "headers": {"X-Request-ID": schemas.REQUEST_ID, "Retry-After": schemas.SECONDS},
            "securitySchemes": {"appKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _start() -> dict[str, Any]:
    answers = {
        "200": answer("payload.stream is false: the run has ended", schemas.ENDED),
        "201": answer("payload.stream is true: the run exists, events follow on the channels", schemas.CREATED),
    }
    return {
        **_post(
            "start", "Start a run", ("StreamingStart", "PollingStart"), answers, 401, 403, 404, 408, 409, 422, 429, 502
        ),
        **_TAKES_KEY,
        "description": "The app key comes as `apiKey` or as the header `X-Api-Key`.",
        "parameters": [_parameter("header", "Idempotency-Key", schemas.KEY, description=_ONCE)],
    }


def _stop() -> dict[str, Any]:
    answers = {"200": answer("The run is stopped, was over, or is not known", schemas.STOPPED)}
    about = "The two ids are the permission; an operator may ask for the app key too."
    return {**_post("stop", "Stop a run", ("Stop",), answers, 401), **_TAKES_KEY, "description": about}


def _tool_response(operation: str, *codes: int) -> dict[str, Any]:
    taken = answer("Taken; `ignored` if the call was answered, timed out or stopped before", schemas.TAKEN)
    return _post(operation, "Answer a ui_ tool", ("Answer",), {"200": taken}, *codes)


def _shared_tool_response() -> dict[str, Any]:
    operation = _tool_response("answerSharedTool")
    operation["responses"]["default"] = {"description": "The host app's own answer"}
    return {**operation, "description": "Answers to calls the plugin does not know go to the host app."}


def _run() -> dict[str, Any]:
    operation = _get("inspect", "A run: status, text so far, usage, error", schemas.RUN, 400, 404, 503)
    return {**operation, "description": _TWO_IDS, "parameters": _the_run()}


def _events() -> dict[str, Any]:
    operation = _get("events", "The events of a run after one that is known", schemas.EVENTS, 400, 404, 503)
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": schemas.STRING}
    operation["responses"]["204"] = {"description": "Asked for a stream: the run is over, and nothing follows"}
    after = _parameter("query", "after", schemas.SEQ, description="The last seq that is known")
    again = "The same, as an EventSource says it; it wins"
    last = _parameter("header", "Last-Event-ID", schemas.SEQ, description=again)
    return {**operation, "description": _TWO_IDS, "parameters": [*_the_run(), after, last]}


def _messages() -> dict[str, Any]:
    summary = "What was said in the newest runs of a thread, oldest first"
    operation = _get("messages", summary, schemas.MESSAGES, 400, 401, 404, 503)
    return {**operation, **_NEEDS_KEY, "parameters": [_path("threadId"), _parameter("query", "limit", schemas.LIMIT)]}


def _delete() -> dict[str, Any]:
    operation = _get("deleteThread", "Delete a thread", schemas.DELETED, 401, 404, 409, 503)
    text = "What the provider keeps goes too, with the operator's key or this one"
    key = _parameter("header", "X-Provider-Key", schemas.STRING, description=text)
    return {**operation, **_NEEDS_KEY, "parameters": [_path("threadId"), key]}


def _ready() -> dict[str, Any]:
    operation = _get("readiness", "Whether this process can serve", schemas.READINESS)
    operation["responses"]["503"] = answer("Something it needs does not work", schemas.READINESS)
    return operation


def _plugins() -> dict[str, Any]:
    return {**_get("plugins", "What is installed, and what failed to load", schemas.PLUGINS, 401, 503), **_NEEDS_KEY}


def _get(operation: str, summary: str, schema: Mapping[str, Any], *codes: int) -> dict[str, Any]:
    answers = {"200": answer(summary, schema), **errors(500, *codes)}
    return {"operationId": operation, "summary": summary, "responses": answers}


def _post(
    operation: str, summary: str, models: Iterable[str], answers: Mapping[str, Any], *codes: int
) -> dict[str, Any]:
    refs = [{"$ref": schemas.REF.format(model=model)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {
        "operationId": operation,
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {**answers, **errors(*_BODY_ERRORS, *codes)},
    }


def _parameter(place: str, name: str, schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"in": place, "name": name, "schema": schema, **more}


def _path(name: str) -> dict[str, Any]:
    return _parameter("path", name, schemas.STRING, required=True)


def _the_run() -> list[dict[str, Any]]:
    beside = [_parameter(place, name, schemas.STRING) for place, name in _THREAD_ID]
    return [_path("runId"), *beside]


_THREAD_ID = (("header", "X-Thread-Id"), ("query", "threadId"))


def _request_schemas(providers: Sequence[str]) -> dict[str, Any]:
    models: Sequence[tuple[Any, Any]] = [(model, "validation") for model in REQUEST_MODELS]
    definitions = models_json_schema(models, ref_template=schemas.REF)[1]["$defs"]
    plain = {name: _plain(schema) for name, schema in definitions.items()}
    for payload in ("StreamingPayload", "PollingPayload"):
        plain[payload]["properties"]["provider"] = {"enum": [*providers, None]}
    return plain


def _plain(schema: Any) -> Any:
    """Drop what only repeats names; members of a union may overlap (a tool in both forms), so `anyOf`."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = {
        key: {name: _plain(child) for name, child in value.items()} if key == "properties" else _plain(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "oneOf" in named:
        named["anyOf"] = named.pop("oneOf")
    return named
