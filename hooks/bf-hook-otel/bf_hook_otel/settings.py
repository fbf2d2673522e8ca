"""What operators may set, in `[plugins.otel]`. All else is in OpenTelemetry's own environment variables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bf_plugin import ConfigurationError


class OtelSettings(BaseModel):
    """The table, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    content: bool | list[str] = False
    """Whether spans hold what people, models and tools wrote; a list of apps: those of their runs only."""

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

    def has_content(self, app: str) -> bool:
        """Tell whether the spans of an app's runs hold what was said."""
        return self.content if isinstance(self.content, bool) else app in self.content


def read_settings(section: Mapping[str, Any], apps: Collection[str] | None) -> OtelSettings:
    """Return the settings; `apps` are those that have a name, None if nobody knows.

    Raises ConfigurationError that names the field.
    """
    try:
        settings = OtelSettings.model_validate(dict(section))
    except ValidationError as error:
        raise ConfigurationError(f"[plugins.otel] {_problem(error)}") from None
    named = [] if isinstance(settings.content, bool) else settings.content
    unknown = [] if apps is None else [app for app in named if app not in apps]
    if unknown:
        known = f"there are: {', '.join(sorted(apps or ()))}" if apps else "none has a name without BF_APPS_FILE"
        raise ConfigurationError(f"[plugins.otel] content: there is no app {unknown[0]}; {known}")
    return settings


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["loc"][0] == "content":
        return "content: say true, false, or a list of the apps whose runs' spans may hold what was said"
    field = ".".join(map(str, first["loc"]))
    known = f"; there are: {', '.join(OtelSettings.model_fields)}" if first["type"] == "extra_forbidden" else ""
    return f"{field}: {first['msg']}{known}"
