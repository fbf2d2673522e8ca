"""What an operator sets: the table `[plugins.assistants]` of the apps file, checked at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from bf_plugin import ConfigurationError


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://RESOURCE.openai.azure.com/openai")
    if parts.username or parts.password:
        raise ValueError("must hold no user and no password: they would show in logs; use api_key")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path; what follows a ? goes into query")
    return url.rstrip("/")


def _checked_key(key: SecretStr) -> SecretStr:
    _sendable(key.get_secret_value())
    return key


def _sendable(key: str) -> str:
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError("must be printable ASCII: no header can hold anything else")
    return key


Id = Annotated[str, Field(min_length=1, max_length=200)]


class Section(BaseModel):
    """Where the server is, which key it wants, and which of its assistants answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: Annotated[str, AfterValidator(_checked_url)] | None = None
    """The server, up to and without `/threads`. Without it the provider is not set up."""
    query: dict[str, str] = {}
    """Added to the URL of every request, such as `api-version`."""
    api_key: Annotated[SecretStr, AfterValidator(_checked_key)] | None = None
    """Used when the caller sends no `payload.apiKey`."""
    api_key_file: Path | None = None
    """A file that holds `api_key`, read at each step: whoever renews a token writes it there."""
    key_header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    """The header that carries the key as it is (Azure: `api-key`); by default it is `Authorization: Bearer KEY`."""
    assistant_id: Id | None = None
    """The assistant that answers. Without it the engine makes one for each model, once."""
    assistants: dict[str, Id] = {}
    """Assistants of the server by the name that callers give as `payload.model`; they keep their own model."""
    silence: float = Field(default=300.0, gt=0)
    """Seconds without a word on a stream after which the run is asked about instead."""
    poll_seconds: float = Field(default=1.0, gt=0, le=60)
    """Seconds between two questions about a run that cannot be listened to."""
    cancel_seconds: float = Field(default=20.0, gt=0)
    """Seconds an interrupted run may take to be cancelled, before its thread is left for a new one."""

    @model_validator(mode="after")
    def _one_key(self) -> Section:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file exclude each other")
        return self

    def key(self) -> str:
        """Return the operator's key, "" without one. May read a file. Raises ValueError with what is wrong with it."""
        if self.api_key_file is None:
            return self.api_key.get_secret_value() if self.api_key else ""
        try:
            return _sendable(self.api_key_file.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError("is not text") from None


def read_section(name: str, section: Mapping[str, Any]) -> Section:
    """Return the settings. Raises ConfigurationError that names each bad field and quotes no value."""
    try:
        read = Section.model_validate(dict(section))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'the table'}: {_problem(e)}" for e in error.errors())
        raise ConfigurationError(f"[plugins.{name}] {'; '.join(problems)}") from None
    try:
        read.key()
    except ValueError as error:
        raise ConfigurationError(f"[plugins.{name}] api_key_file: {error}") from None
    return read


def _problem(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
