"""What an operator sets for a provider: the table `[plugins.NAME]` of the apps file, checked at load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from bf_plugin import ConfigurationError

S = TypeVar("S", bound="Section")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://api.example.com/v1")
    if parts.username or parts.password:
        raise ValueError("must hold no user and no password: they would show in logs; use headers")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_checked_url)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Parameter = Literal["parallel_tool_calls", "reasoning_effort", "stream_options", "strict"]


class Section(BaseModel):
    """What all providers have."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    api_key: SecretStr | None = None
    """Used for every app that has no key of its own for this provider, when the caller sends no `payload.apiKey`."""
    api_key_file: Path | None = None
    """A file that holds `api_key`, as container secrets are mounted."""
    headers: dict[str, SecretStr] = {}
    """Sent with every request, for gateways that ask for more than a key."""
    silence: float = Field(default=300.0, gt=0)
    """Seconds without a word from the provider after which a step fails: models that think are silent for minutes."""

    @model_validator(mode="after")
    def _one_key(self) -> Section:
        if self.api_key is not None and self.api_key_file is not None:
            raise ValueError("api_key and api_key_file exclude each other")
        return self

    @property
    def key(self) -> str:
        """The operator's key, "" without one."""
        return self.api_key.get_secret_value() if self.api_key else ""

    @property
    def plain_headers(self) -> dict[str, str]:
        """The headers as they are sent."""
        return {name: value.get_secret_value() for name, value in self.headers.items()}


class AnthropicSection(Section):
    """`[plugins.anthropic]`."""

    base_url: Url = "https://api.anthropic.com"
    """Anthropic, or a gateway that speaks its Messages API."""
    max_tokens: int = Field(default=32_000, ge=1)
    """Tokens of an answer where the caller sets no limit: this API insists on one."""
    reasoning: Literal["adaptive", "budget"] = "adaptive"
    """How `reasoning_effort` is said: as an effort with adaptive thinking, or as a budget (models up to Claude 4.5)."""
    prompt_cache: bool = True
    """Whether the provider caches the thread: each step sends all of it."""


class GeminiSection(Section):
    """`[plugins.gemini]`."""

    base_url: Url = "https://generativelanguage.googleapis.com"
    """The Gemini API, or a gateway that speaks it."""
    api_version: str = Field(default="v1beta", pattern=r"^[a-z0-9]+$")
    """The version in the path."""
    reasoning: Literal["level", "budget"] = "level"
    """How `reasoning_effort` is said: as a thinking level, or as a budget (Gemini 2.5)."""


class ChatSection(Section):
    """`[plugins.chat]`."""

    base_url: Url | None = None
    """The server, up to and without `/chat/completions`. Without it the provider is not set up."""
    needs_key: bool = True
    """Whether the server asks for a key. Where it does not, and there is none, none is sent."""
    key_header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]+$")
    """The header that carries the key as it is; by default it is `Authorization: Bearer KEY`."""
    query: dict[str, str] = {}
    """Added to the URL of every request, such as `api-version`."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the server calls the limit of an answer's tokens."""
    developer_role: bool = False
    """Whether instructions are sent as a developer's message, not as the system's."""
    short_call_ids: bool = False
    """Whether ids of tool calls are made of nine letters and digits, as Mistral wants them."""
    without: frozenset[Parameter] = frozenset()
    """Parameters the server refuses; a caller that asks for one is warned."""


def read_section(model: type[S], name: str, section: Mapping[str, Any]) -> S:
    """Return the section of a provider. Raises ConfigurationError that names each bad field and quotes no value."""
    try:
        read = model.model_validate(dict(section))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'the table'}: {_problem(e)}" for e in error.errors())
        raise ConfigurationError(f"[plugins.{name}] {'; '.join(problems)}") from None
    if read.api_key_file is None:
        return read
    try:
        key = read.api_key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigurationError(f"[plugins.{name}] api_key_file: cannot be read: {reason}") from None
    return read.model_copy(update={"api_key": SecretStr(key)})


def _problem(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
