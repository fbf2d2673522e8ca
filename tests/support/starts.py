"""Bodies of starts, and where they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bf_plugin.testing.deployment import Deployment

Deploy = Callable[..., Deployment]


WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "getCurrentWeather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            },
            "required": ["location"],
        },
    },
}


FLAT_TOOL = {"type": "function", "name": "flat", "parameters": {"type": "object", "properties": {}}}


def run_url(deployed: Deployment) -> str:
    """Return where runs are started."""
    return deployed.url + "/stream/create/assistants"


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return `body` with the value at a dotted path replaced, or removed where it is `...`."""
    at: Any = body
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key) if isinstance(at, list) else key]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return body
