"""Whether what the settings name is there: accounts, scripts, layouts. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bf_hook_filemaker.dataapi import DataApi
from bf_hook_filemaker.deadline import Deadline
from bf_hook_filemaker.failures import Failure
from bf_hook_filemaker.plugin import connect
from bf_hook_filemaker.settings import Section


@dataclass(frozen=True)
class Finding:
    """Something that was looked at; `ok` is None where it cannot be."""

    ok: bool | None
    text: str


def check(section: Section) -> Iterator[Finding]:
    """Look at each connection, and at what each tool needs of it."""
    for name, settings in section.connections.items():
        connection = connect(settings, max_bytes=section.max_bytes)
        try:
            if isinstance(connection, DataApi):
                yield from _data_api(section, name, connection)
            else:
                yield Finding(None, f"connections.{name}: is not asked, a question would run its hook")
        finally:
            connection.close()


def _data_api(section: Section, name: str, connection: DataApi) -> Iterator[Finding]:
    try:
        there = {what: connection.names(what, Deadline(section.timeout)) for what in ("scripts", "layouts")}
    except Failure as failure:
        yield Finding(False, f"connections.{name}: {failure.logged()}")
        return
    yield Finding(True, f"connections.{name}: the account logs in")
    for tool_name, tool in section.tools.items():
        if tool.connection in (None, name):
            for field, wanted in (("script", tool.script), ("layout", tool.layout)):
                found = wanted in there[f"{field}s"]
                missing = "" if found else ", or not to be seen by the account"
                text = f"tools.{tool_name}.{field}: {wanted!r} is {'' if found else 'not '}in {name}{missing}"
                yield Finding(found, text)
