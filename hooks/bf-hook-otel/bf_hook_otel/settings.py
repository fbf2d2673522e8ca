"""What operators may set, in `[plugins.otel]`. All else is in OpenTelemetry's own environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bf_plugin import ConfigurationError


class OtelSettings(BaseModel):
    """The table, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    content: bool = False
    """Whether spans hold what people, models and tools wrote."""

    prometheus: bool = False
    """Whether the metrics are in the registry of `prometheus_client`, for an app of the operator's to serve."""

    prometheus_port: int | None = Field(default=None, ge=0, le=65535)
    """A port to serve the metrics on; 0 takes any."""

    prometheus_host: str = Field(default="127.0.0.1", min_length=1)
    """The address that the port is on."""

    prometheus_ports: int = Field(default=1, ge=1, le=1000)
    """How many ports from `prometheus_port` on to try: one for each process of the host."""

    provider_names: dict[str, str] = Field(default_factory=dict)
    """What `gen_ai.provider.name` says for a provider, where that is not the engine's name."""


def read_settings(section: Mapping[str, Any]) -> OtelSettings:
    """Return the settings. Raises ConfigurationError that names the field."""
    try:
        return OtelSettings.model_validate(dict(section))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        known = f"; there are: {', '.join(OtelSettings.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise ConfigurationError(f"[plugins.otel] {field}: {first['msg']}{known}") from None
