"""What an operator may write, and what is said of what he may not: always the field, never the value."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from bf_hook_filemaker import create
from bf_hook_filemaker.settings import Section, read
from pydantic import ValidationError

from bf_plugin import ConfigurationError, PluginContext

SALES = {
    "kind": "data_api",
    "url": "https://fm.example.com",
    "database": "Sales",
    "account": "assistant",
    "password": "open sesame",
}
APP = {"kind": "callback", "url": "https://portal.example.com/api/tools", "key": "callback-key-1"}
TOOL = {"description": "Find an order.", "script": "find order", "layout": "API"}


def section(*, connection: dict[str, Any] | None = None, tool: dict[str, Any] | None = None, **rest: Any) -> Any:
    """Return settings; None in a change takes a field away."""
    made = {**SALES, **(connection or {})}
    tools = {**TOOL, **(tool or {})}
    return {
        "connections": {"sales": {name: value for name, value in made.items() if value is not None}},
        "tools": {"find_order": {name: value for name, value in tools.items() if value is not None}},
        **rest,
    }


def problem(settings: dict[str, Any]) -> str:
    """Return what is said of settings that cannot work."""
    with pytest.raises(ConfigurationError) as caught:
        read(settings)
    assert "open sesame" not in str(caught.value)
    assert "callback-key-1" not in str(caught.value)
    return str(caught.value)


def test_nothing_set_is_nothing_offered() -> None:
    """Installed and not configured, it is healthy and does nothing."""
    plugin = create(PluginContext(name="filemaker"))
    assert plugin.bf_tools() == {}
    plugin.close()


def test_the_defaults() -> None:
    """20 seconds, as BetterForms gives its hooks; four calls at once; offered to every run."""
    read_section = read(section())
    assert (read_section.timeout, read_section.offer) == (20.0, "always")
    connection = read_section.connections["sales"]
    assert (connection.concurrency, connection.apps, connection.kind) == (4, None, "data_api")
    tool = read_section.tools["find_order"]
    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert not tool.idempotent


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"connection": {"kind": None}}, "connections.sales: Unable to extract tag using discriminator 'kind'"),
        ({"connection": {"kind": "odata"}}, "connections.sales: Input tag 'odata' found using 'kind' does not match"),
        ({"connection": {"url": None}}, "connections.sales.url: Field required"),
        ({"connection": {"url": "fm.example.com"}}, "connections.sales.url: must be an address such as https://"),
        ({"connection": {"url": "https://a:b@fm.example.com"}}, "connections.sales.url: must have no user, password"),
        ({"connection": {"url": "http://fm.example.com"}}, "connections.sales.url: must be https"),
        ({"connection": {"database": ""}}, "connections.sales.database: String should have at least 1 character"),
        ({"connection": {"account": "a:b"}}, "connections.sales.account: must have no : in it"),
        ({"connection": {"password": None}}, "connections.sales.password: is needed, either password or password_file"),
        ({"connection": {"password": ""}}, "connections.sales.password: is empty"),
        ({"connection": {"password_file": "/x"}}, "connections.sales.password: is needed, either password or"),
        (
            {"connection": {"password": None, "password_file": "/no/such"}},
            "connections.sales.password_file: cannot be read: No such file or directory",
        ),
        ({"connection": {"ca_file": "/no/such"}}, "connections.sales.ca_file: there is no such file"),
        ({"connection": {"concurrency": 0}}, "connections.sales.concurrency: Input should be greater than or equal"),
        ({"connection": {"pasword": "open sesame"}}, "connections.sales.pasword: Extra inputs are not permitted"),
        ({"tool": {"description": None}}, "tools.find_order.description: Field required"),
        ({"tool": {"script": None}}, "tools.find_order.script: is needed, the Data API runs a script on a layout"),
        ({"tool": {"layout": None}}, "tools.find_order.layout: is needed"),
        ({"tool": {"connection": "purchase"}}, "tools.find_order.connection: there is no connections.purchase"),
        ({"tool": {"timeout": 0}}, "tools.find_order.timeout: Input should be greater than 0"),
        ({"tool": {"find": {}}}, "tools.find_order.find: must name a field"),
        ({"tool": {"offer": "never"}}, "tools.find_order.offer: Input should be 'always' or 'listed'"),
        ({"tool": {"parameters": {"type": "array"}}}, "tools.find_order.parameters.type: must be object"),
        (
            {"tool": {"parameters": {"properties": {"n": {"type": "whole"}}}}},
            "tools.find_order.parameters: properties.n.type is no JSON schema: 'whole' is not valid",
        ),
        (
            {"tool": {"parameters": {"default": datetime.date(2026, 1, 1)}}},
            "tools.find_order.parameters: is not JSON: Object of type date",
        ),
        (
            {"tool": {"parameters": {"properties": {"n": {"$ref": "#/$defs/no"}}}}},
            "tools.find_order.parameters: #/$defs/no leads to nothing",
        ),
        (
            {"tool": {"parameters": {"$ref": "https://example.com/schema.json"}}},
            "tools.find_order.parameters: https://example.com/schema.json leads to nothing in this schema",
        ),
        ({"tools": {}}, "tools: none is declared"),
        ({"tools": {"find order": TOOL}}, "tools.find order: is no name for a tool"),
        ({"tools": {"ui_find": TOOL}}, "tools.ui_find: is no name for a tool"),
        ({"connections": {}}, "tools.find_order.connection: there are no connections"),
        ({"connections": {"app": APP}}, "tools.find_order.script: has no effect on a callback"),
        ({"connections": {"app": {**APP, "key": "ä"}}}, "connections.app.key: must be printable ASCII"),
        ({"connections": {"app": {**APP, "key_header": "a b"}}}, "connections.app.key_header: String should match"),
        ({"connections": {"a": SALES, "b": SALES}}, "connections.b.apps: a is for all apps already"),
        (
            {"connections": {"a": {**SALES, "apps": ["x"]}, "b": {**SALES, "apps": ["y", "x"]}}},
            "connections.b.apps: a is for x already; tools must name a `connection`",
        ),
        ({"timeout": 301}, "timeout: Input should be less than or equal to 300"),
        ({"max_bytes": 1}, "max_bytes: Input should be greater than or equal to 1000"),
        ({"tols": {}}, "tols: Extra inputs are not permitted"),
    ],
)
def test_what_cannot_work_is_named(change: dict[str, Any], expected: str) -> None:
    """The field as it stands in the file."""
    assert problem(section(**change)).startswith(expected)


def test_all_that_is_wrong_is_named_at_once() -> None:
    """An operator mends his file in one go."""
    text = problem(section(connection={"account": "a:b", "concurrency": 99}, tool={"timeout": -1}))
    assert all(f"{field}: " in text for field in ("connections.sales.account", "connections.sales.concurrency"))
    assert "tools.find_order.timeout: " in text


@pytest.mark.parametrize(
    ("connection", "url"),
    [({}, "http://127.0.0.1:8080"), ({}, "http://localhost"), ({"allow_http": True}, "http://gateway:8080/")],
)
def test_http_is_for_this_machine_unless_allowed(connection: dict[str, Any], url: str) -> None:
    """A password goes over a network in the clear only if the operator says so."""
    assert read(section(connection={**connection, "url": url})).connections["sales"].url == url.rstrip("/")


def test_a_password_from_a_file(tmp_path: Path) -> None:
    """As container secrets are mounted, with or without a newline at the end."""
    (tmp_path / "secret").write_text("open sesame\n")
    connection = {"password": None, "password_file": str(tmp_path / "secret")}
    assert read(section(connection=connection)).connections["sales"].secret() == "open sesame"
    (tmp_path / "secret").write_bytes(b"\xff")
    assert problem(section(connection=connection)) == "connections.sales.password_file: cannot be read: not UTF-8"


def test_secrets_do_not_show() -> None:
    """Not in what Python prints of the settings, nor of what is wrong with them."""
    assert "open sesame" not in repr(read(section()))
    with pytest.raises(ValidationError) as caught:
        Section.model_validate(section(connection={"account": None, "pasword": "open sesame"}))
    assert "open sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("named", "app", "expected"),
    [
        (None, "portal", "portal"),
        (None, "intranet", "all"),
        ("all", "portal", "all"),
        ("portal", "portal", "portal"),
        ("portal", "intranet", None),
    ],
)
def test_which_connection_a_tool_runs_on(named: str | None, app: str, expected: str | None) -> None:
    """The one it names, else the app's own, else everybody's; never that of another app."""
    connections = {"all": SALES, "portal": {**SALES, "apps": ["portal"]}}
    settings: Section = read(section(connections=connections, tool={"connection": named}))
    assert settings.connection_of(settings.tools["find_order"], app) == expected
