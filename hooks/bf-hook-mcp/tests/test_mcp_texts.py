"""Settings, names, schemas and results by themselves."""

from __future__ import annotations

import base64
import json
import re

import pytest
from bf_hook_mcp import create
from bf_hook_mcp.definitions import name_of, offered
from bf_hook_mcp.results import text_of
from bf_hook_mcp.settings import ServerSettings, read_settings
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

ANY = ServerSettings(command="server")
OBJECT = {"type": "object", "properties": {}}


def tool(name="look", schema=OBJECT, **fields):
    """Return a tool as a server lists it."""
    return Tool(name=name, input_schema=schema, **fields)


def text(*blocks, limit=1000, **fields):
    """Return what the model reads of a result."""
    return text_of(CallToolResult(content=list(blocks), **fields), limit)


def says(words):
    return TextContent(type="text", text=words)


# Settings -------------------------------------------------------------------------------------------------------------


def test_without_a_section_there_are_no_servers(plugin_context):
    """Installing the distribution changes nothing by itself."""
    assert create(plugin_context(name="mcp")).bf_tools() == {}


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({}, "servers.crm: needs a command or a url, and not both"),
        ({"command": "x", "url": "http://x/"}, "servers.crm: needs a command or a url, and not both"),
        ({"command": "x", "headers": {"A": "b"}}, "servers.crm: headers cannot be used with a command"),
        ({"url": "http://x/", "env": {}, "args": []}, "servers.crm: args, env cannot be used with a url"),
        ({"url": "ftp://x/"}, "servers.crm.url: a URL begins with http:// or https:// and names a host"),
        ({"url": "https://me:secret@x/"}, "servers.crm.url: HTTP libraries log URLs, so user and password"),
        ({"command": "x", "timeout": 0}, "servers.crm.timeout: Input should be greater than 0"),
        ({"command": "x", "tool": ["a"]}, "servers.crm.tool: Extra inputs are not permitted"),
        (
            {"url": "https://x/", "headers": {"Authorization": "Bearer ${CRM_TOKEN} ${HOME}"}},
            "servers.crm.headers.Authorization: the environment variable CRM_TOKEN is not set",
        ),
        ({"command": "x", "env": {"KEY": "${CRM_TOKEN}"}}, "servers.crm.env.KEY: the environment variable CRM_TOKEN"),
    ],
)
def test_what_is_wrong_is_named_and_not_quoted(server, problem, monkeypatch):
    """Each problem with its field; a secret in a wrong place is not repeated."""
    monkeypatch.delenv("CRM_TOKEN", raising=False)
    with pytest.raises(ValueError, match=re.escape(f"[plugins.mcp] {problem}")) as raised:
        read_settings({"servers": {"crm": server}})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["ui", "ui_forms", "a__b", "_a", "a_", "a b", "ü", "", "a" * 33])
def test_names_of_servers_that_would_make_trouble_are_refused(name):
    """They begin the names of tools: those of pages are not ours, and the first `__` must be ours."""
    with pytest.raises(ValueError, match=r"a server's name is|names that begin with ui_"):
        read_settings({"servers": {name: {"command": "x"}}})


def test_variables_are_put_in_where_they_are_used(monkeypatch):
    """And nowhere else: what is printed of the settings has their names only."""
    monkeypatch.setenv("CRM_TOKEN", "sesame-open-0815")
    server = ServerSettings(url="https://x/", headers={"Authorization": "Bearer ${CRM_TOKEN}", "X-Plain": "$x {y}"})
    assert server.filled(server.headers) == {"Authorization": "Bearer sesame-open-0815", "X-Plain": "$x {y}"}
    assert server.secrets() == {"sesame-open-0815"}
    assert "sesame" not in repr(server)


@pytest.mark.parametrize(
    ("apps", "app", "allowed"),
    [
        (None, "shop", True),
        ({}, "shop", False),
        ({"shop": ["crm__*"]}, "shop", True),
        ({"shop": ["CRM__*"]}, "shop", False),
        ({"shop": ["crm__get"]}, "shop", False),
        ({"portal": ["*"]}, "shop", False),
        ({"*": ["crm__look"]}, "shop", True),
        ({"*": ["*"], "shop": []}, "shop", False),
    ],
)
def test_an_app_that_is_not_let_in_is_left_out(apps, app, allowed):
    """With a table of apps, what is not allowed in it is refused."""
    section = {} if apps is None else {"apps": apps}
    assert read_settings(section).allows(app, "crm__look") is allowed


# Definitions ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1, max_size=200), unique=True, max_size=20))
def test_names_are_such_as_providers_take_and_never_clash(names):
    """Whatever a server calls its tools. Only the two names count, so another process comes to the same."""
    made = [name_of("server", name) for name in names]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"server__[A-Za-z0-9_-]+", name) and len(name) <= 64 for name in made)


def test_a_name_that_needs_no_change_has_none():
    """The model sees `SERVER__TOOL`."""
    assert name_of("crm", "get-customer_2") == "crm__get-customer_2"
    assert name_of("crm", "g" * 59) == f"crm__{'g' * 59}"


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf", "allOf", "not", "enum"])
def test_what_providers_refuse_at_the_top_of_a_schema_is_said_in_words(keyword):
    """One tool that is refused would fail every run. Deeper down it is fine."""
    inner = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    schema = {"type": "object", "properties": {"a": inner}, keyword: [{"required": ["a"]}]}
    definition = offered("crm", [tool(schema=schema, description="Look.")], ANY)["crm__look"].definition
    assert definition["parameters"] == {"type": "object", "properties": {"a": inner}}
    assert definition["description"] == (
        f'Look.\nThe arguments must also match this JSON schema: {{"{keyword}": [{{"required": ["a"]}}]}}'
    )


def test_a_schema_without_properties_gets_an_empty_list_of_them():
    """OpenAI asks for one."""
    (offer,) = offered("crm", [tool(schema={"type": "object"}, title="Look around")], ANY).values()
    assert offer.definition["parameters"] == OBJECT
    assert offer.definition["description"] == "Look around"


def test_a_schema_that_cannot_be_sent_costs_only_its_tool():
    """NaN, which is no JSON, would fail the start of every run."""
    bad = {"type": "object", "properties": {"a": {"default": float("nan")}}}
    assert list(offered("crm", [tool("bad", bad), tool("good")], ANY)) == ["crm__good"]


def test_of_tools_that_are_listed_twice_the_first_counts():
    """A server that repeats itself does no harm."""
    tools = [tool(description="first"), tool(description="second")]
    assert [offer.definition["description"] for offer in offered("crm", tools, ANY).values()] == ["first"]


@pytest.mark.parametrize(
    ("hints", "idempotent"),
    [
        (None, False),
        (ToolAnnotations(), False),
        (ToolAnnotations(read_only_hint=True), True),
        (ToolAnnotations(idempotent_hint=True), True),
        (ToolAnnotations(read_only_hint=False, idempotent_hint=False), False),
    ],
)
def test_hints_of_the_server(hints, idempotent):
    """What only reads, or may be repeated, may run again after a crash."""
    (offer,) = offered("crm", [tool(annotations=hints)], ANY).values()
    assert offer.options.idempotent is idempotent


# Results --------------------------------------------------------------------------------------------------------------


def test_texts_are_joined():
    """One below the other."""
    assert text(says("one"), says("two")) == "one\ntwo"


@pytest.mark.parametrize(
    ("texts", "structured"),
    [
        (["3"], {"result": 3}),
        (["three"], {"result": "three"}),
        (["3"], {"result": "3"}),
        (['{"a": [1]}'], {"a": [1]}),
        (["1", "2"], {"result": [1, 2]}),
        (['{"result": 3}'], {"result": 3}),
    ],
)
def test_structured_content_that_the_texts_say_is_not_repeated(texts, structured):
    """Servers send both, for clients that know one of them."""
    assert text(*map(says, texts), structured_content=structured) == "\n".join(texts)


@pytest.mark.parametrize("texts", [[], ["Found one."]])
def test_structured_content_that_no_text_says_is_told(texts):
    """It may be all there is."""
    assert text(*map(says, texts), structured_content={"a": ["ü"]}) == "\n".join([*texts, '{"a": ["ü"]}'])


def test_what_cannot_be_shown_is_described():
    """The model can say what came, and ask for it elsewhere."""
    data = base64.b64encode(b"\0" * 100).decode()
    blob = BlobResourceContents(uri="file:///x", mime_type="application/pdf", blob=data)
    link = ResourceLink(type="resource_link", name="report", uri="file:///r", description="Of today", size=3)
    page = TextResourceContents(uri="file:///t", text="the page")
    assert text(
        AudioContent(type="audio", mime_type="audio/wav", data=data),
        EmbeddedResource(type="resource", resource=blob),
        link,
        EmbeddedResource(type="resource", resource=page),
    ).split("\n") == [
        "[a recording, audio/wav, 100 bytes, which cannot be played here]",
        "[a resource, application/pdf, 100 bytes, at file:///x, which cannot be shown here]",
        "[a resource, report, at file:///r] Of today",
        "[a resource, at file:///t]",
        "the page",
    ]


def test_a_result_that_is_too_long_is_cut():
    """A page of a book would fill the model's context, and stay in the thread for ever."""
    assert (
        text(says("x" * 200), limit=150) == f"{'x' * 150}\n[cut: the result has 200 characters, this is the beginning]"
    )


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_structured_content_can_be_told(value):
    """Nothing a server sends makes the answer fail."""
    assert json.loads(text(structured_content={"value": value})) == {"value": value}
