"""The body of the stop endpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from bf_plugin.bodies.body import Body, check


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequest:
    """Which run to stop; knowing both ids is the permission."""

    thread_id: str = field(repr=False)
    run_id: str
    api_key: str | None = field(default=None, repr=False)


class Stop(Body):
    """Stop a run."""

    thread_id: str = Field(alias="threadId")
    run_id: str = Field(alias="runId")
    api_key: str | None = Field(None, alias="apiKey")


def parse_stop(body: Mapping[str, Any]) -> StopRequest:
    """Return the request in `body`. Raises RequestError 400 that names each missing or bad field."""
    stop = check(Stop, body)
    return StopRequest(thread_id=stop.thread_id, run_id=stop.run_id, api_key=stop.api_key or None)
