"""The API's own description (OpenAPI 3.1), with the request schemas taken from the models that check the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from bf_plugin.errors import NAMES
from bf_plugin.requests.payload import PollingStart, StreamingStart
from bf_plugin.requests.stop import Stop
from bf_plugin.requests.toolanswer import Answer

_PREFIX = "/stream/create/assistants"
_REF = "#/components/schemas/{model}"
_BODY_ERRORS = (400, 413, 415, 500, 503)
_RETRY_AFTER = frozenset((409, 429, 503))


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
            f"{_PREFIX}/openapi.json": {"get": _get("describe", "This document", {"type": "object"})},
            f"{_PREFIX}/healthz": {"get": _get("health", "Whether this process answers", _HEALTH)},
            f"{_PREFIX}/readyz": {"get": _ready()},
            f"{_PREFIX}/plugins": {"get": _plugins()},
        },
        "components": {
            "schemas": {**_request_schemas(providers), "Error": _ERROR, "Usage": _USAGE},
            "headers": {"X-Request-ID": _REQUEST_ID, "Retry-After": _SECONDS},
            "securitySchemes": {"appKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
        },
    }


def _start() -> dict[str, Any]:
    return {
        "operationId": "start",
        "summary": "Start a run",
        "description": "The app key comes as `apiKey` or as the header `X-Api-Key`.",
        "security": [{"appKey": []}, {}],
        "requestBody": _request("StreamingStart", "PollingStart"),
        "responses": {
            "200": _answer("payload.stream is false: the run has ended", _ENDED),
            "201": _answer("payload.stream is true: the run exists, events follow on the channels", _CREATED),
            **_errors(*_BODY_ERRORS, 401, 403, 404, 408, 409, 422, 429, 502),
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
            "200": _answer("The run is stopped, was over, or is not known", _STOPPED),
            **_errors(*_BODY_ERRORS, 401),
        },
    }


def _tool_response(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "Answer a ui_ tool",
        "requestBody": _request("Answer"),
        "responses": {
            "200": _answer("Taken; `ignored` if the call was answered, timed out or stopped before", _TAKEN),
            **_errors(*_BODY_ERRORS, 404),
        },
    }


def _shared_tool_response() -> dict[str, Any]:
    operation = _tool_response("answerSharedTool")
    operation["description"] = "Answers to calls the plugin does not know go to the host app."
    del operation["responses"]["404"]
    operation["responses"]["default"] = {"description": "The host app's own answer"}
    return operation


def _get(operation: str, summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": _answer(summary, schema), **_errors(500)},
    }


def _ready() -> dict[str, Any]:
    operation = _get("readiness", "Whether this process can serve", _READINESS)
    operation["responses"]["503"] = _answer("Something it needs does not work", _READINESS)
    return operation


def _plugins() -> dict[str, Any]:
    operation = _get("plugins", "What is installed, and what failed to load", _PLUGINS)
    operation["responses"].update(_errors(401, 503))
    return {**operation, "security": [{"appKey": []}]}


def _request(*models: str) -> dict[str, Any]:
    refs = [{"$ref": _REF.format(model=model)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {"application/json": {"schema": schema}},
    }


def _errors(*codes: int) -> dict[str, Any]:
    answers = {}
    for code in sorted(codes):
        answers[str(code)] = _answer(NAMES[code], {"$ref": _REF.format(model="Error")})
        if code in _RETRY_AFTER:
            answers[str(code)]["headers"]["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return answers


def _request_schemas(providers: Sequence[str]) -> dict[str, Any]:
    models: Sequence[tuple[Any, Any]] = [
        (model, "validation") for model in (StreamingStart, PollingStart, Stop, Answer)
    ]
    definitions = models_json_schema(models, ref_template=_REF)[1]["$defs"]
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


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _nullable(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_TRUE = {"const": True}
_IDS = {"threadId": _STRING, "runId": _STRING}
_WARNINGS = {"warnings": {"type": "array", "items": _STRING, "description": "Keys that had no effect"}}
_REQUEST_ID = {"description": "The caller's if well-formed, else ours", "required": True, "schema": _STRING}
_SECONDS = {"description": "Seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
_HEALTH = _object(status={"const": "ok"})
_CREATED = _object(success=_TRUE, status={"const": "created"}, **_IDS)
_CREATED["properties"].update(_WARNINGS)
_USAGE = _object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT)
_ENDED = _object(
    success=_TRUE,
    data={"type": "array", "items": _object(type=_STRING)},
    status={"enum": ["done", "cancelled"]},
    usage={"$ref": _REF.format(model="Usage")},
    finish_reason=_STRING,
    **_IDS,
)
_ENDED["properties"].update(_WARNINGS)
_STOP_STATES = (
    "cancelled",
    "already_completed",
    "already_failed",
    "already_cancelled",
    "already_expired",
    "not_found",
)
_STOPPED = _object(success=_TRUE, status={"enum": list(_STOP_STATES)}, **_IDS)
_TAKEN = _object(success=_TRUE, status={"enum": ["accepted", "ignored"]})
_CHECK = {**_object(ok={"type": "boolean"}, problem=_STRING), "required": ["ok"]}
_READINESS = _object(status={"enum": ["ok", "failing"]}, checks={"type": "object", "additionalProperties": _CHECK})
_PLUGINS = _object(
    plugins={
        "type": "array",
        "items": _object(
            name=_STRING,
            kind=_STRING,
            distribution=_nullable("string"),
            version=_nullable("string"),
            hooks={"type": "array", "items": _STRING},
            status={"enum": ["ok", "failed", "disabled", "replaced"]},
            problem=_nullable("string"),
        ),
    }
)
_ERROR = _object(
    success={"const": False},
    name={"enum": list(NAMES.values())},
    message=_STRING,
    code={"enum": list(NAMES)},
    className=_STRING,
    actionName=_nullable("string"),
    errors={"type": "object", "additionalProperties": _STRING},
    data=_object(requestId=_STRING),
    error=_object(message=_STRING, code={"enum": list(NAMES)}, details=_nullable("string")),
)
