"""What an operator can set: environment variables with the prefix `BF_`, or keyword arguments of `Settings`.

A secret `X` may also come from a file named in `BF_X_FILE`. Applications may be listed in a TOML file (`BF_APPS_FILE`).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from bf_plugin.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SECRETS = ("api_keys", "openai_api_key", "secret_key")

PROVIDERS = ("openai",)
"""Providers that have settings of their own: `BF_NAME_API_KEY`, `NAME_api_key` of an app, `BF_NAME_BASE_URL`."""


class BadSettings(ConfigurationError):
    """Settings that cannot work: the name of each and what is wrong with it, never its value."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems))
        self.problems: Sequence[tuple[str, str]] = problems


class AssistantSettings(BaseModel):
    """A named set of model, instructions and tools: what a caller's `assistant_id` stands for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] = []
    """In the form callers use (nested function tools and the like)."""


class AppSettings(BaseModel):
    """One application of the apps file; its name is its identity, over changes of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_keys: list[SecretStr] = Field(min_length=1)
    """The keys that are valid now: list the old and the new one while rotating."""
    messaging_url: str | None = None
    """Where this app's messages go; default `BF_MESSAGING_URL`."""
    openai_api_key: SecretStr | None = None
    """Used when the caller sends no `payload.apiKey`."""
    provider_keys: dict[str, SecretStr] = {}
    """The same for other providers, by name."""
    model: str | None = None
    """Used when the caller names no model."""
    instructions: str | None = None
    """Used when the caller sends none."""
    assistants: dict[str, AssistantSettings] = {}
    """By `assistant_id`."""
    allowed_files: list[str] = []
    """`file_id`s the app may use with the operator's provider key."""
    allowed_vector_stores: list[str] = []
    """Vector stores the app may search with the operator's provider key."""
    allowed_containers: list[str] = []
    """Code interpreter containers the app may use with the operator's provider key."""
    max_runs: int | None = Field(default=None, ge=1)
    """Runs of this app under way at once, in this process; over it 429."""

    @field_validator("provider_keys")
    @classmethod
    def _of_others(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name in PROVIDERS:
            if name in keys:
                raise ValueError(f"the key for {name} is {name}_api_key")
        return keys

    @property
    def keys_by_provider(self) -> dict[str, SecretStr]:
        """All provider keys of this app by provider name."""
        return {**self.provider_keys, **_own_keys(self)}


class Settings(BaseSettings):
    """All settings; each has a default. See docs/operating.md for the same list in prose."""

    model_config = SettingsConfigDict(env_prefix="BF_", extra="ignore", frozen=True, hide_input_in_errors=True)

    api_keys: SecretStr | None = None
    """Comma-separated app keys, each an app of its own. Replaces asking the host."""
    apps_file: Path | None = None
    """TOML file with a table `[apps.NAME]` per app and `[plugins.NAME]` per plugin."""
    messaging_url: str | None = None
    """Base URL of the gateway's messaging: messages are POSTed to `<url>/message/sendmessage`."""
    openai_base_url: str | None = None
    """Another server that speaks the Responses API; default OpenAI."""
    openai_api_key: SecretStr | None = None
    """Used for every app that has none and whose caller sends none."""
    model: str | None = None
    """Used when neither caller, assistant nor app names one. There is no built-in default: models retire."""
    background: Literal["auto", "on", "off"] = "auto"
    """Whether responses run in the background at the provider (they can then be resumed and cancelled)."""
    state_mode: Literal["auto", "responses", "conversation", "local"] = "auto"
    """How the provider keeps a conversation; auto is `responses`."""
    database_url: str | None = None
    """URL of the journal, sqlite:/// or postgresql://; default an SQLite file under the user's state directory."""
    secret_key: SecretStr | None = None
    """Fernet keys, comma separated; the first encrypts, all decrypt. Default: made once beside the SQLite file.

    Needed with Postgres, the same for all processes.
    """
    heartbeat: float = Field(default=1.0, ge=0.1)
    """Postgres: seconds between two signs of life of a process that drives runs."""
    heartbeat_timeout: float = Field(default=5.0, ge=0.3, validate_default=True)
    """Postgres: seconds of silence after which the others take a process's runs; at least three heartbeats."""
    run_timeout: float = Field(default=600.0, gt=0)
    """Seconds a run may take, from its start."""
    step_limit: int = Field(default=25, ge=1)
    """Provider responses one run may take (each round of tool calls needs one)."""
    coalesce_ms: int = Field(default=40, ge=0, le=500)
    """Milliseconds over which deltas are joined into one message; up to 150 under load, 0 never joins."""
    event_style: Literal["options", "data", "both"] = "options"
    """Where a message carries the event: the action's `options`, `options.data`, or both."""
    max_runs: int = Field(default=500, ge=1)
    """Runs under way at once in this process; over it 503 with `Retry-After`."""
    max_waiters: int | None = Field(default=None, ge=1)
    """Requests that may wait at once (polling starts, accepts, streams); default 2, half the threads under serve."""
    thread_busy: Literal["reject", "enqueue", "interrupt"] = "reject"
    """What a start on a thread with a run under way gets: 409, a place behind it, or its place."""
    unknown_thread: Literal["reject", "fresh"] = "reject"
    """What a start with an unknown `thread_id` gets: 404, or a new thread and a warning."""
    tool_timeout: float = Field(default=60.0, gt=0)
    """Seconds a tool may take if it does not say otherwise."""
    ui_tool_timeout: float = Field(default=90.0, gt=0)
    """Seconds a page may take to answer a `ui_` tool."""
    ui_tool_keep_prefix: bool = False
    """Whether pages get the names of `ui_` tools with the prefix."""
    stop_needs_key: bool = False
    """Whether the stop endpoint asks for the app key too."""
    retention_days: float = Field(default=30.0, gt=0)
    """Days after which ended runs and unused threads are purged."""
    plugins_disabled: str = ""
    """Comma-separated names of plugins, engines and messengers not to load."""
    plugins_required: str = ""
    """Comma-separated names of plugins without which the gateway must not start, a guard for instance."""
    engines: str = ""
    """Choices between engines of one name: `openai=DISTRIBUTION`, comma separated."""
    cors_origins: str = ""
    """Comma-separated exact origins that pages of other hosts come from; empty: CORS is off."""
    log_format: Literal["text", "json"] = "text"
    """Form of the log lines of `bf-plugin serve`, `worker` and `demo`. Mounted, the host's logging decides."""
    body_limit: int = Field(default=1_048_576, ge=1024)
    """Bytes a request body may have."""
    host_threads: int = Field(default=4, ge=1)
    """Threads that call the host app in-process, where the host is asked for keys or takes the messages."""
    worker_threads: int = Field(default=32, ge=1)
    """Threads for blocking hooks and tools."""
    apps: dict[str, AppSettings] = {}
    """The apps by name; normally read from the apps file."""
    plugins: dict[str, dict[str, Any]] = Field(default={}, repr=False)
    """Settings of plugins by plugin name; normally read from the apps file."""

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Fill secrets from their `_FILE` variants, and apps and plugins from the apps file."""
        for name in SECRETS:
            path = os.environ.get(f"BF_{name.upper()}_FILE")
            if path and not values.get(name):
                values[name] = _read(Path(path), f"BF_{name.upper()}_FILE").strip()
        if values.get("apps_file"):
            values = {**_read_toml(Path(values["apps_file"])), **values}
        return values

    @field_validator("heartbeat_timeout")
    @classmethod
    def _leaves_room(cls, value: float, info: ValidationInfo) -> float:
        if value < 2.999 * info.data.get("heartbeat", 0.0):
            raise ValueError("must be at least three times BF_HEARTBEAT")
        return value

    @field_validator("messaging_url", "openai_base_url", "database_url", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def base_urls(self) -> dict[str, str]:
        """The base URLs of providers, by provider name; a provider without one has its own."""
        urls = {name: getattr(self, f"{name}_base_url") for name in PROVIDERS}
        return {name: url for name, url in urls.items() if url is not None}

    @property
    def keys_by_provider(self) -> dict[str, SecretStr]:
        """The provider keys of every app that has none of its own, by provider name."""
        return _own_keys(self)

    def names(self, field: str) -> tuple[str, ...]:
        """Return a comma-separated setting as a tuple."""
        value = getattr(self, field)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        return tuple(part.strip() for part in text.split(",") if part.strip())

    def engine_choices(self) -> dict[str, str]:
        """Return `BF_ENGINES` as a mapping of engine name to distribution name."""
        pairs = [name.partition("=") for name in self.names("engines")]
        return {name.strip(): distribution.strip() for name, _, distribution in pairs}


def _own_keys(settings: AppSettings | Settings) -> dict[str, SecretStr]:
    """Return the keys of the providers whose keys are settings of their own; an empty one is none."""
    keys = {name: getattr(settings, f"{name}_api_key") for name in PROVIDERS}
    return {name: key for name, key in keys.items() if key}


def load_settings(**values: Any) -> Settings:
    """Return the settings from the environment; `values` win.

    Raises BadSettings, which names each bad setting, without its value.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        raise BadSettings(*(_problem(list(e["loc"]), e["msg"]) for e in error.errors())) from None
    except SettingsError as error:  # a mapping in the environment has to be JSON
        fields = re.findall(r'field "(\w+)"', str(error))
        raise BadSettings(*((f"BF_{field.upper()}", "is not JSON") for field in fields)) from None


def _problem(place: list[int | str], message: str) -> tuple[str, str]:
    """Return the setting a place in `Settings` belongs to, and what is wrong: apps and plugins come from a file."""
    if not place:
        return "settings", message
    if place[0] not in ("apps", "plugins"):
        return f"BF_{str(place[0]).upper()}", message
    return "BF_APPS_FILE", f"{'.'.join(map(str, place))}: {message}"


def _read(path: Path, setting: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSettings((setting, f"cannot read {path}: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise BadSettings((setting, f"{path} is not UTF-8 text")) from None


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(_read(path, "BF_APPS_FILE"))
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(("BF_APPS_FILE", f"{path} is not TOML: {error}")) from None
    unknown = sorted(set(content) - {"apps", "plugins"})
    if unknown:
        tables = f"unknown tables {', '.join(unknown)}; [apps.NAME] and [plugins.NAME] are read"
        raise BadSettings(("BF_APPS_FILE", tables))
    return content
