"""The API's own description (OpenAPI 3.1), with the request schemas taken from the models that check the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from bf_plugin.bodies.payload import PollingStart, StreamingStart
from bf_plugin.bodies.stop import Stop
from bf_plugin.bodies.toolanswer import Answer
from bf_plugin.web.answerschemas import (
    CREATED,
    DELETED,
    ENDED,
    ERROR,
    EVENTS,
    HEALTH,
    KEY,
    MESSAGES,
    PLUGINS,
    READINESS,
    REF,
    REQUEST_ID,
    RUN,
    SECONDS,
    SEQ,
    STOPPED,
    STRING,
    TAKEN,
    USAGE,
    answer,
    errors,
)

_PREFIX = "/stream/create/assistants"
_BODY_ERRORS = (400, 413, 415, 500, 503)


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
            _PREFIX: {"post": _start()},
            f"{_PREFIX}/stop": {"post": _stop()},
            f"{_PREFIX}/tool-response": {"post": _tool_response("answerTool")},
            "/llm/tool-response": {"post": _shared_tool_response()},
            f"{_PREFIX}/runs/{{runId}}": {"get": _run()},
            f"{_PREFIX}/runs/{{runId}}/events": {"get": _events()},
            f"{_PREFIX}/threads/{{threadId}}": {"delete": _delete()},
            f"{_PREFIX}/threads/{{threadId}}/messages": {"get": _messages()},
            f"{_PREFIX}/openapi.json": {"get": _get("describe", "This document", {"type": "object"})},
            f"{_PREFIX}/healthz": {"get": _get("health", "Whether this process answers", HEALTH)},
            f"{_PREFIX}/readyz": {"get": _ready()},
            f"{_PREFIX}/plugins": {"get": _plugins()},
        },
        "components": {
            "schemas": {**_request_schemas(providers), "Error": ERROR, "Usage": USAGE},
            "headers": {"X-Request-ID": REQUEST_ID, "Retry-After": SECONDS},
            "securitySchemes": {"appKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _start() -> dict[str, Any]:
    return {
        "operationId": "start",
        "summary": "Start a run",
        "description": "The app key comes as `apiKey` or as the header `X-Api-Key`.",
        "security": [{"appKey": []}, {}],
        "parameters": [_parameter("header", "Idempotency-Key", KEY, description=_ONCE)],
        "requestBody": _request("StreamingStart", "PollingStart"),
        "responses": {
            "200": answer("payload.stream is false: the run has ended", ENDED),
            "201": answer("payload.stream is true: the run exists, events follow on the channels", CREATED),
            **errors(*_BODY_ERRORS, 401, 403, 404, 408, 409, 422, 429, 502),
        },
    }


def _stop() -> dict[str, Any]:
    return {
        "operationId": "stop",
        "summary": "Stop a run",
        "description": "The two ids are the permission; an operator may ask for the app key too.",
        "security": [{"appKey": []}, {}],
        "requestBody": _request("Stop"),
        "responses": {
            "200": answer("The run is stopped, was over, or is not known", STOPPED),
            **errors(*_BODY_ERRORS, 401),
        },
    }


def _tool_response(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "Answer a ui_ tool",
        "requestBody": _request("Answer"),
        "responses": {
            "200": answer("Taken; `ignored` if the call was answered, timed out or stopped before", TAKEN),
            **errors(*_BODY_ERRORS, 404),
        },
    }


def _shared_tool_response() -> dict[str, Any]:
    operation = _tool_response("answerSharedTool")
    operation["description"] = "Answers to calls the plugin does not know go to the host app."
    del operation["responses"]["404"]
    operation["responses"]["default"] = {"description": "The host app's own answer"}
    return operation


def _run() -> dict[str, Any]:
    operation = _get("inspect", "A run: status, text so far, usage, error", RUN)
    operation["responses"].update(errors(400, 404, 503))
    return {**operation, "description": _TWO_IDS, "parameters": _THE_RUN}


def _events() -> dict[str, Any]:
    operation = _get("events", "The events of a run after one that is known", EVENTS)
    operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": STRING}
    operation["responses"]["204"] = {"description": "Asked for a stream: the run is over, and nothing follows"}
    operation["responses"].update(errors(400, 404, 503))
    after = _parameter("query", "after", SEQ, description="The last seq that is known")
    last = _parameter("header", "Last-Event-ID", SEQ, description="The same, as an EventSource says it; it wins")
    return {**operation, "description": _TWO_IDS, "parameters": [*_THE_RUN, after, last]}


def _messages() -> dict[str, Any]:
    operation = _get("messages", "What was said in the newest runs of a thread, oldest first", MESSAGES)
    operation["responses"].update(errors(400, 401, 404, 503))
    limit = _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 50})
    return {**operation, "security": [{"appKey": []}], "parameters": [_path("threadId"), limit]}


def _delete() -> dict[str, Any]:
    operation = _get("deleteThread", "Delete a thread", DELETED)
    operation["responses"].update(errors(401, 404, 409, 503))
    text = "What the provider keeps goes too, with the operator's key or this one"
    key = _parameter("header", "X-Provider-Key", STRING, description=text)
    return {**operation, "security": [{"appKey": []}], "parameters": [_path("threadId"), key]}


def _parameter(place: str, name: str, schema: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"in": place, "name": name, "schema": schema, **more}


def _path(name: str) -> dict[str, Any]:
    return _parameter("path", name, STRING, required=True)


def _get(operation: str, summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": answer(summary, schema), **errors(500)},
    }


def _ready() -> dict[str, Any]:
    operation = _get("readiness", "Whether this process can serve", READINESS)
    operation["responses"]["503"] = answer("Something it needs does not work", READINESS)
    return operation


def _plugins() -> dict[str, Any]:
    operation = _get("plugins", "What is installed, and what failed to load", PLUGINS)
    operation["responses"].update(errors(401, 503))
    return {**operation, "security": [{"appKey": []}]}


def _request(*models: str) -> dict[str, Any]:
    refs = [{"$ref": REF.format(model=model)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _request_schemas(providers: Sequence[str]) -> dict[str, Any]:
    models: Sequence[tuple[Any, Any]] = [
        (model, "validation") for model in (StreamingStart, PollingStart, Stop, Answer)
    ]
    definitions = models_json_schema(models, ref_template=REF)[1]["$defs"]
    schemas = {name: _plain(schema) for name, schema in definitions.items()}
    for payload in ("StreamingPayload", "PollingPayload"):
        schemas[payload]["properties"]["provider"] = {"enum": [*providers, None]}
    return schemas


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


_ONCE = "The same key and body within 24 hours get the first answer and start nothing; another body gets 422."
_TWO_IDS = "The two ids are the permission; the thread's comes as the header `X-Thread-Id` or in the query."
_THE_RUN = [_path("runId"), _parameter("header", "X-Thread-Id", STRING), _parameter("query", "threadId", STRING)]
