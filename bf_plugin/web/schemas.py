"""The answers of the endpoint as JSON schemas; `openapi` describes the API with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from bf_plugin.errors import NAMES
from bf_plugin.values import FinishReason, Status

REF = "#/components/schemas/{model}"

LARGEST_SEQ = 2**31 - 1
MOST_RUNS = 100
"""As many runs' messages as one answer may hold."""

_RETRY_AFTER = frozenset((409, 429, 503))


def answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON answer."""
    return {
        "description": description,
        "headers": {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}},
        "content": {"application/json": {"schema": schema}},
    }


def errors(*codes: int) -> dict[str, Any]:
    """Return the error answers of these codes, by code."""
    answers = {}
    for code in sorted(codes):
        answers[str(code)] = answer(NAMES[code], {"$ref": REF.format(model="Error")})
        if code in _RETRY_AFTER:
            answers[str(code)]["headers"]["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    return answers


def object_(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has all these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def nullable(kind: str) -> dict[str, Any]:
    """Return the schema of a value that may be null."""
    return {"type": [kind, "null"]}


STRING = {"type": "string"}
KEY = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*$"}
COUNT = {"type": "integer", "minimum": 0}
TRUE = {"const": True}
IDS = {"threadId": STRING, "runId": STRING}
WARNINGS = {"warnings": {"type": "array", "items": STRING, "description": "Keys that had no effect"}}
REQUEST_ID = {"description": "The caller's if well-formed, else ours", "required": True, "schema": STRING}
SECONDS = {"description": "Seconds to wait", "schema": {"type": "string", "pattern": "^[0-9]+$"}}
HEALTH = object_(status={"const": "ok"})
CREATED = object_(success=TRUE, status={"const": "created"}, **IDS)
CREATED["properties"].update(WARNINGS)
USAGE = object_(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
ENDED = object_(
    success=TRUE,
    data={"type": "array", "items": object_(type=STRING)},
    status={"enum": ["done", "cancelled"]},
    usage={"$ref": REF.format(model="Usage")},
    finish_reason=STRING,
    **IDS,
)
ENDED["properties"].update(WARNINGS)
_STOPPED = ["cancelled", *(f"already_{status}" for status in get_args(Status)), "not_found"]
STOPPED = object_(success=TRUE, status={"enum": _STOPPED}, **IDS)
LIMIT = {"type": "integer", "minimum": 1, "maximum": MOST_RUNS, "default": 50}
SEQ = {"type": "integer", "minimum": 0, "maximum": LARGEST_SEQ}
EVENT = object_(type=STRING, threadId=STRING, runId=STRING, seq=SEQ)
RUN = object_(
    success=TRUE,
    **IDS,
    status={"enum": ["queued", "running", *get_args(Status)]},
    text=STRING,
    seq={**SEQ, "description": "The newest event in `text`: events after it are to come"},
    usage={"$ref": REF.format(model="Usage")},
    finish_reason={"enum": [*get_args(FinishReason), None]},
    error={"type": ["object", "null"], "properties": {"message": STRING, "code": STRING}},
)
EVENTS = object_(success=TRUE, **IDS, events={"type": "array", "items": EVENT})
MESSAGE = object_(
    role={"enum": ["user", "assistant"]},
    runId=STRING,
    content={"type": "array", "items": object_(type=STRING)},
)
MESSAGES = object_(
    success=TRUE,
    threadId=STRING,
    messages={"type": "array", "items": MESSAGE},
    hasMore={"type": "boolean", "description": "Whether older runs were left out"},
)
DELETED = object_(
    success=TRUE,
    threadId=STRING,
    status={"const": "deleted"},
    provider={"enum": ["nothing", "deleted", "kept"], "description": "What became of the copy at the provider"},
)
DELETED["properties"]["message"] = {"type": "string", "description": "Why the provider keeps it"}
TAKEN = object_(success=TRUE, status={"enum": ["accepted", "ignored"]})
_CHECK = {**object_(ok={"type": "boolean"}, problem=STRING), "required": ["ok"]}
READINESS = object_(status={"enum": ["ok", "failing"]}, checks={"type": "object", "additionalProperties": _CHECK})
PLUGINS = object_(
    plugins={
        "type": "array",
        "items": object_(
            name=STRING,
            kind=STRING,
            distribution=nullable("string"),
            version=nullable("string"),
            hooks={"type": "array", "items": STRING},
            status={"enum": ["ok", "failed", "disabled", "replaced"]},
            problem=nullable("string"),
        ),
    }
)
ERROR = object_(
    success={"const": False},
    name={"enum": list(NAMES.values())},
    message=STRING,
    code={"enum": list(NAMES)},
    className=STRING,
    actionName=nullable("string"),
    errors={"type": "object", "additionalProperties": STRING},
    data=object_(requestId=STRING),
    error=object_(message=STRING, code={"enum": list(NAMES)}, details=nullable("string")),
)
