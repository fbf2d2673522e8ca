"""The section `[plugins.mcp]`: which servers there are, which of their tools are offered, and to which apps.

Secrets stay in the environment: the section names variables, `${NAME}`, and they are read where they are used. So no
object here holds one, and none can be printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _known(text: str) -> str:
    missing = [name for name in _VARIABLE.findall(text) if not os.environ.get(name)]
    if missing:
        raise ValueError(f"the environment variable {', '.join(missing)} is not set")
    return text


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL begins with http:// or https:// and names a host")
    if parts.username or parts.password:
        raise ValueError("HTTP libraries log URLs, so user and password do not belong there: use headers")
    return url


def _server_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*", name) or len(name) > 32:
        raise ValueError("a server's name is up to 32 of A-Z a-z 0-9, with single - or _ between them")
    if name == "ui" or name.startswith("ui_"):
        raise ValueError("names that begin with ui_ belong to the tools of pages")
    return name


Filled = Annotated[str, AfterValidator(_known)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServerSettings(BaseModel):
    """One server: a `command` to be run, spoken to over its stdin and stdout, or a `url`, spoken to over HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    command: Annotated[str, Field(min_length=1)] | None = None
    """The program, found on the PATH of the gateway."""
    args: list[str] = []
    """Its arguments."""
    env: dict[str, Filled] = {}
    """Variables of its environment, beside HOME, PATH and the like: it gets nothing else of the gateway's."""
    cwd: str | None = None
    """The directory it works in."""
    url: Annotated[str, AfterValidator(_address)] | None = None
    """The address of its endpoint (streamable HTTP)."""
    headers: dict[str, Filled] = {}
    """Headers of each request."""
    tools: list[str] = ["*"]
    """Which of its tools are offered: names as the server has them, `*` and `?` stand for any letters."""
    timeout: Seconds | None = None
    """How long a call may take, in seconds; by default as long as `BF_TOOL_TIMEOUT` says."""
    connect_timeout: Seconds = 15.0
    """How long the server may take to be ready, and to list its tools, in seconds."""
    refresh: Seconds = 300.0
    """After how many seconds the tools are listed again, if the server told of no change."""
    retry: Seconds = 60.0
    """The longest pause between two attempts to reach a server that is down, in seconds."""
    result_chars: Annotated[int, Field(ge=100)] = 50_000
    """How much of a result the model is given, in characters."""

    @model_validator(mode="after")
    def _one_transport(self) -> ServerSettings:
        if (self.command is None) == (self.url is None):
            raise ValueError("needs a command or a url, and not both")
        wrong = {"headers"} if self.url is None else {"args", "env", "cwd"}
        if found := sorted(wrong & self.model_fields_set):
            raise ValueError(f"{', '.join(found)} cannot be used with a {'command' if self.url is None else 'url'}")
        return self

    def offers(self, tool: str) -> bool:
        """Tell whether the operator lets a tool of this name, the server's own, be offered."""
        return matches(tool, self.tools)

    def filled(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return `env` or `headers` with the variables put in."""
        return {name: _VARIABLE.sub(lambda found: os.environ[found[1]], text) for name, text in values.items()}

    def secrets(self) -> set[str]:
        """Return what must appear nowhere: the variables' values, but for those too short to be a secret."""
        texts = [*self.env.values(), *self.headers.values()]
        values = {os.environ.get(name, "") for text in texts for name in _VARIABLE.findall(text)}
        return {value for value in values if len(value) >= 8}


class McpSettings(BaseModel):
    """All of the section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    servers: dict[Annotated[str, AfterValidator(_server_name)], ServerSettings] = {}
    """The servers by name. A tool is offered as `SERVER__TOOL`."""
    apps: dict[str, list[str]] | None = None
    """Which tools the runs of an app get, by the names under which they are offered; `*` is every app not named.
    Without this table all apps get all tools, with it those that are not in it get none."""

    def patterns(self, app: str) -> list[str]:
        """Return what the names of the tools that runs of an app may use are like."""
        return ["*"] if self.apps is None else self.apps.get(app, self.apps.get("*", []))

    def allows(self, app: str, name: str) -> bool:
        """Tell whether runs of an app may use a tool, by the name under which it is offered."""
        return matches(name, self.patterns(app))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a name is like one of the patterns; case matters."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def read_settings(section: Mapping[str, Any]) -> McpSettings:
    """Return the settings. Raises ValueError, which names each field that is wrong and quotes no value."""
    try:
        return McpSettings.model_validate(dict(section))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        found = [f"{_place(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}" for problem in problems]
        raise ValueError(f"[plugins.mcp] {'; '.join(found)}") from None


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc if part != "[key]")
