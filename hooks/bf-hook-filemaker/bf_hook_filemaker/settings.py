"""`[plugins.filemaker]`: connections and tools, checked when the gateway starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import jsonschema
import referencing.exceptions
import referencing.jsonschema
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from bf_plugin import ConfigurationError

_TOOL_NAME = re.compile(r"(?!ui_)[A-Za-z0-9_-]{1,64}")
_HEADER_NAME = r"^[A-Za-z][A-Za-z0-9-]{0,63}$"
_LOCAL = ("localhost", "127.0.0.1", "::1")

Text = Annotated[str, Field(min_length=1, max_length=500)]
Seconds = Annotated[float, Field(gt=0, le=300)]


class _Model(BaseModel):
    # Inputs stay out of errors: they hold passwords.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Connection(_Model):
    url: str
    ca_file: Path | None = None
    allow_http: bool = False
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    apps: list[Text] | None = None

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as https://fm.example.com")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no user, password, ? or # in it")
        return url.rstrip("/")

    @field_validator("ca_file")
    @classmethod
    def _is_there(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_file():
            raise ValueError("there is no such file")
        return file

    @model_validator(mode="after")
    def _is_private(self) -> _Connection:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and parts.hostname not in _LOCAL and not self.allow_http:
            raise ValueError("url: must be https, since the password goes with it; allow_http = true to do without")
        return self

    def serves(self, app: str) -> bool:
        """Tell whether runs of this app may use it."""
        return self.apps is None or app in self.apps


class DataApi(_Connection):
    """A database of a FileMaker Server, through its Data API."""

    kind: Literal["data_api"]
    database: Text
    account: Text
    password: SecretStr | None = None
    password_file: Path | None = None
    max_url: Annotated[int, Field(ge=500, le=100_000)] = 8000

    @field_validator("account")
    @classmethod
    def _fits_basic(cls, account: str) -> str:
        if ":" in account:
            raise ValueError("must have no : in it, HTTP's Basic authentication cannot say it")
        return account

    @model_validator(mode="after")
    def _has_secret(self) -> DataApi:
        self.secret()
        return self

    def secret(self) -> str:
        """Return the password. Raises ValueError when there is none, or no way to read it."""
        return _secret("password", self.password, self.password_file)


class Callback(_Connection):
    """An app's own endpoint, which a tool call is posted to."""

    kind: Literal["callback"]
    key: SecretStr | None = None
    key_file: Path | None = None
    key_header: Annotated[str, Field(pattern=_HEADER_NAME)] = "X-Api-Key"

    @model_validator(mode="after")
    def _has_secret(self) -> Callback:
        key = self.secret()
        if not key.isascii() or not key.isprintable():
            raise ValueError("key: must be printable ASCII, it goes into a header")
        return self

    def secret(self) -> str:
        """Return the key. Raises ValueError when there is none, or no way to read it."""
        return _secret("key", self.key, self.key_file)


Connection = Annotated[DataApi | Callback, Field(discriminator="kind")]


class Tool(_Model):
    """A tool: what the model is told of it, and the script that answers it."""

    description: Annotated[str, Field(min_length=1, max_length=4000)]
    parameters: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    connection: str | None = None
    script: Text | None = None
    layout: Text | None = None
    find: dict[Text, str] | None = None
    timeout: Seconds | None = None
    idempotent: bool = False
    offer: Literal["always", "listed"] | None = None

    @field_validator("parameters")
    @classmethod
    def _is_schema(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        schema = {"type": "object", "properties": {}, "additionalProperties": False, **parameters}
        if schema["type"] != "object":
            raise ValueError("type: must be object, the arguments of a call are one")
        try:
            json.dumps(schema, allow_nan=False)
            jsonschema.Draft202012Validator.check_schema(schema)
        except (TypeError, ValueError) as error:
            raise ValueError(f"is not JSON: {error}") from None
        except jsonschema.SchemaError as error:
            place = ".".join(map(str, error.absolute_path)) or "it"
            raise ValueError(f"{place} is no JSON schema: {error.message}") from None
        _resolve(schema)
        return schema

    @field_validator("find")
    @classmethod
    def _finds(cls, find: dict[str, str] | None) -> dict[str, str] | None:
        if find is not None and not find:
            raise ValueError("must name a field, and what to search it for")
        return find


class Section(_Model):
    """All of `[plugins.filemaker]`."""

    timeout: Seconds = 20.0
    offer: Literal["always", "listed"] = "always"
    max_bytes: Annotated[int, Field(ge=1000, le=100_000_000)] = 256 * 1024
    connections: dict[Text, Connection] = Field(default_factory=dict)
    tools: dict[str, Tool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Section:
        if problems := [*self._connection_problems(), *self._tool_problems()]:
            raise ValueError("; ".join(problems))
        return self

    def connection_of(self, tool: Tool, app: str) -> str | None:
        """Return the connection on which a tool runs for an app: the one it names, the app's, else everybody's."""
        if tool.connection is not None:
            return tool.connection if self.connections[tool.connection].serves(app) else None
        return next((name for name in self._ranked() if self.connections[name].serves(app)), None)

    def _ranked(self) -> list[str]:
        """Return the connections, those of certain apps before those of all."""
        return sorted(self.connections, key=lambda name: self.connections[name].apps is None)

    def _connection_problems(self) -> Iterator[str]:
        if not all(tool.connection for tool in self.tools.values()):
            first: dict[str, str] = {}
            for name in self._ranked():
                for app in self.connections[name].apps or ["all apps"]:
                    other = first.setdefault(app, name)
                    if other != name:
                        yield f"connections.{name}.apps: {other} is for {app} already; tools must name a `connection`"

    def _tool_problems(self) -> Iterator[str]:
        if self.connections and not self.tools:
            yield "tools: none is declared"
        for name, tool in self.tools.items():
            if not _TOOL_NAME.fullmatch(name):
                yield f"tools.{name}: is no name for a tool: 1 to 64 of A-Z a-z 0-9 _ -, and ui_ is for pages"
            if tool.connection is not None and tool.connection not in self.connections:
                yield f"tools.{name}.connection: there is no connections.{tool.connection}"
            elif not self.connections:
                yield f"tools.{name}.connection: there are no connections"
            else:
                yield from self._kind_problems(name, tool)

    def _kind_problems(self, name: str, tool: Tool) -> Iterator[str]:
        used = [tool.connection] if tool.connection is not None else list(self.connections)
        kinds = {self.connections[connection].kind for connection in used}
        for field in ("script", "layout"):
            if "data_api" in kinds and getattr(tool, field) is None:
                yield f"tools.{name}.{field}: is needed, the Data API runs a script on a layout"
        for field in ("script", "layout", "find"):
            if kinds == {"callback"} and getattr(tool, field) is not None:
                yield f"tools.{name}.{field}: has no effect on a callback, which is told the tool's name"


def read(section: Mapping[str, Any]) -> Section:
    """Return the settings. Raises ConfigurationError, which names each field that is wrong, and no value."""
    try:
        return Section.model_validate(dict(section))
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise ConfigurationError("; ".join(_problem(each["loc"], each["msg"]) for each in found)) from None


def _problem(place: tuple[int | str, ...], message: str) -> str:
    # pydantic puts the kind of a connection into the place, where the file has nothing.
    names = [str(part) for index, part in enumerate(place) if not (index == 2 and part in ("data_api", "callback"))]
    message = message.removeprefix("Value error, ")
    return f"{'.'.join(names)}{_joint(message) if names else ''}{message}"


def _joint(message: str) -> str:
    """Return what joins a place to a message that may begin with the name of a field."""
    return "." if re.match(r"[a-z_]+: ", message) else ": "


def _secret(name: str, value: SecretStr | None, file: Path | None) -> str:
    if (value is None) == (file is None):
        raise ValueError(f"{name}: is needed, either {name} or {name}_file")
    try:
        text = value.get_secret_value() if file is None and value is not None else _first_line(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_file: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not text:
        raise ValueError(f"{name}: is empty")
    return text


def _first_line(file: Path | None) -> str:
    return "" if file is None else file.read_text("utf-8").strip("\r\n")


def _resolve(schema: dict[str, Any]) -> None:
    """Raise ValueError for a reference that leads nowhere, or out of the schema."""
    resource = referencing.jsonschema.DRAFT202012.create_resource(schema)
    resolver = referencing.Registry().with_resource("", resource).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable:
            raise ValueError(f"{reference} leads to nothing in this schema") from None


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
