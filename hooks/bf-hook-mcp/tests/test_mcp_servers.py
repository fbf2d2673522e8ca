"""Runs with tools of real MCP servers, which fail, vanish, come back and change."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from bf_hook_mcp import create
from bf_hook_mcp.__main__ import main

from bf_plugin.testing import RecordingGateway, assert_events, call, check_plugin, new_call, new_draft, new_run

ERAS = pytest.mark.parametrize("era", [(), ("--legacy",)], ids=["today's protocol", "before 2026-07-28"])
WAYS = pytest.mark.parametrize("way", ["stdio", "http"])
TOOLS = {
    "add",
    "wait",
    "wait_again",
    "change",
    "files_read_all_c4acc06c",
    "secret",
    "refuse",
    "crash",
    "picture",
    "long",
}


@pytest.fixture
def deployed_with(scripted):
    """Return a function that deploys a scripted model with servers."""

    def deploy(*scripts, apps=None, tool_timeout=60, **servers):
        section = {"servers": servers} if apps is None else {"servers": servers, "apps": apps}
        return scripted(*scripts, sections={"mcp": section}, tool_timeout=tool_timeout)

    return deploy


class Plugin:
    """The plugin by itself, with servers."""

    def __init__(self, context):
        self.context = context
        self._threads = ThreadPoolExecutor(1)
        self.servers = create(context)

    def offered(self, **draft):
        """Return the names of the tools that a run is offered."""
        run = new_draft(**draft)
        self.servers.before_run(run)
        return [tool["name"] for tool in run.tools]

    def ask(self, name, arguments=None):
        """Call a tool; return its answer."""

        async def answer():
            return await self.servers.on_tool_call(new_run(), new_call(name, arguments))

        return self.context.run_async(answer(), timeout=30).output

    def begin(self, name):
        """Call a tool in a thread; return the future of its answer."""
        return self._threads.submit(self.ask, name)

    def close(self):
        self._threads.shutdown()
        self.context.run_async(self.servers.aclose(), timeout=10)


@pytest.fixture
def plugin(plugin_context):
    """Return a function that makes the plugin with servers; closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(apps=None, **servers):
            section = {"servers": servers} if apps is None else {"servers": servers, "apps": apps}
            made = Plugin(plugin_context(name="mcp", section=section))
            stack.callback(made.close)
            return made

        yield make


def until(predicate):
    """Wait until something is so."""
    RecordingGateway().wait_for(predicate, 20)


def port_of(server):
    """Return the port in the settings of a server."""
    return urlsplit(server["url"]).port


def answers(deployed, step=1):
    """Return what the model was told about its calls, in order."""
    return [item["output"] for item in deployed.engine.requests[step].new if item["type"] == "function_output"]


# What a model can do -------------------------------------------------------------------------------------------------


@WAYS
@ERAS
def test_the_model_calls_a_tool_and_is_answered(deployed_with, demo, way, era):
    """It is offered what the server has, under the server's name, and the answer of its call is the tool's."""
    server = getattr(demo, way)(*era)
    deployed = deployed_with([call("demo__add", {"a": 2, "b": 40})], "It is 42.", demo=server)

    run = deployed.start("How much is 2 and 40?")

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="It is 42.")
    assert answers(deployed) == ["42"]
    tools = {tool["name"]: tool for tool in deployed.engine.requests[0].tools}
    assert set(tools) == {f"demo__{name}" for name in TOOLS}
    assert tools["demo__add"]["description"] == "Add two numbers."
    assert tools["demo__add"]["parameters"]["required"] == ["a", "b"]


def test_results_of_all_kinds_are_told(deployed_with, demo, monkeypatch):
    """Texts, images, errors of the tool and of the protocol; no secret, and not more than was asked for."""
    monkeypatch.setenv("DEMO_TOKEN", "sesame-open-0815")
    names = ["secret", "refuse", "crash", "picture", "long", "files_read_all_c4acc06c", "nothing"]
    calls = [call(f"demo__{name}", {}, f"call_{name}") for name in names]
    server = demo.stdio(env={"DEMO_TOKEN": "${DEMO_TOKEN}"}, result_chars=100)
    deployed = deployed_with(calls, "Well.", demo=server)

    deployed.events(deployed.start("Try all of them"))

    assert answers(deployed) == [
        "the token is [redacted]",
        "Error executing tool refuse: there is no such thing",
        "Error: the server demo refused the call: the database is away",
        "here it is\n[an image, image/png, 3 KB, which cannot be shown here]",
        f"{'x' * 100}\n[cut: the result has 1000 characters, this is the beginning]",
        "read",
        "Error: the server demo has no tool demo__nothing (any more). Nothing happened.",
    ]


def test_arguments_that_are_wrong_are_explained_by_the_server(deployed_with, demo):
    """The model reads what to change."""
    deployed = deployed_with([call("demo__add", {"a": "many", "b": 1})], "Which number?", demo=demo.stdio())
    deployed.events(deployed.start("Add"))
    assert "valid integer" in answers(deployed)[0]


def test_the_time_server_of_pypi(deployed_with):
    """A server that others wrote, started as its README says."""
    server = {"command": sys.executable, "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"]}
    arguments = {"source_timezone": "Europe/Berlin", "time": "16:30", "target_timezone": "Asia/Tokyo"}
    deployed = deployed_with([call("time__convert_time", arguments)], "Late.", time={**server, "connect_timeout": 60})

    deployed.events(deployed.start("When is that in Tokyo?"), timeout=60)

    answer = json.loads(answers(deployed)[0])
    assert answer["source"]["timezone"] == "Europe/Berlin"
    assert answer["target"]["datetime"][11:16] in ("23:30", "00:30")


# Who gets what -------------------------------------------------------------------------------------------------------


def test_only_what_the_operator_lets_through_is_offered_and_called(plugin, demo, other):
    """Per server by the server's own names, per app by those for the model; a model cannot guess its way around."""
    servers = plugin(
        demo=demo.stdio(tools=["add", "files.*"]),
        other=other.stdio(tools=["wait*"]),
        apps={"portal": ["*"], "shop": ["demo__*", "other__wait"], "kiosk": [], "*": ["*__add"]},
    )
    reading = "demo__files_read_all_c4acc06c"
    assert servers.offered(app="portal") == ["demo__add", reading, "other__wait", "other__wait_again"]
    assert servers.offered(app="shop") == ["demo__add", reading, "other__wait"]
    assert servers.offered(app="kiosk") == []
    assert servers.offered(app="somebody") == ["demo__add"]

    refused = servers.servers.on_tool_call(new_run(app="kiosk"), new_call("demo__add", {"a": 1, "b": 2}))
    assert (refused.is_error, refused.output) == (True, "Error: demo__add may not be used here. Nothing happened.")
    assert demo.read("calls") == []


def test_a_tool_that_is_not_let_through_cannot_be_called(deployed_with, demo):
    """Though the server has it."""
    deployed = deployed_with([call("demo__add", {"a": 1, "b": 2})], "No.", demo=demo.stdio(tools=["long"]))
    deployed.events(deployed.start("Add"))
    assert answers(deployed) == ["Error: the server demo has no tool demo__add (any more). Nothing happened."]
    assert demo.read("calls") == []


def test_servers_with_tools_of_the_same_name_are_kept_apart(deployed_with, demo, other):
    """Each is called at its own server."""
    calls = [call("demo__add", {"a": 1, "b": 2}), call("other__add", {"a": 3, "b": 4}, "call_2")]
    deployed = deployed_with(calls, "3 and 7.", demo=demo.stdio(), other=other.stdio())
    deployed.events(deployed.start("Add both"))
    assert answers(deployed) == ["3", "7"]
    assert (demo.read("calls"), other.read("calls")) == (["add"], ["add"])


def test_a_caller_may_describe_a_tool_in_other_words(deployed_with, demo):
    """It is offered once, as the caller wants it, and answered."""
    listed = {"name": "demo__add", "description": "Sum.", "parameters": {"type": "object", "properties": {}}}
    deployed = deployed_with([call("demo__add", {"a": 1, "b": 2})], "3.", demo=demo.stdio())
    deployed.events(deployed.start("Add", tools=[{"type": "function", "function": listed}]))
    described = [tool["description"] for tool in deployed.engine.requests[0].tools if tool["name"] == "demo__add"]
    assert (described, answers(deployed)) == (["Sum."], ["3"])


def test_the_servers_hints_say_what_may_run_twice(plugin, demo):
    """Reading, and what the server calls idempotent; the time-out is the operator's."""
    servers = plugin(demo=demo.stdio(timeout=7))
    assert servers.servers.bf_tools() == {}
    servers.offered()
    idempotent = {name for name, options in servers.servers.bf_tools().items() if options.idempotent}
    assert idempotent == {"demo__add", "demo__wait_again"}
    assert {options.timeout for options in servers.servers.bf_tools().values()} == {7}


def test_what_a_plugin_changes_in_one_run_stays_there(plugin, demo):
    """Each run has definitions of its own."""
    servers = plugin(demo=demo.stdio(tools=["add"]))
    first, second = new_draft(), new_draft()
    servers.servers.before_run(first)
    first.tools[0]["parameters"]["properties"].clear()
    servers.servers.before_run(second)
    assert set(second.tools[0]["parameters"]["properties"]) == {"a", "b"}


def test_calls_of_others_are_left_to_them(plugin, demo):
    """Also such as look alike."""
    servers = plugin(demo=demo.stdio())
    for name in ("getCurrentWeather", "demo", "demo_add", "demonstration__add", "__add"):
        assert servers.servers.on_tool_call(new_run(), new_call(name)) is None


# What goes wrong -----------------------------------------------------------------------------------------------------


@WAYS
@ERAS
def test_a_call_under_way_when_its_server_dies_is_answered(deployed_with, demo, way, era):
    """The model is told that it may have happened. Over stdio the server is started again, for the next call."""
    server = getattr(demo, way)(*era)
    deployed = deployed_with(
        [call("demo__wait")], "I do not know.", [call("demo__add", {"a": 1, "b": 2})], "3.", demo=server
    )
    run = deployed.start("Wait")
    deployed.gateway.wait_for(lambda: demo.has("waiting"))

    demo.kill()

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="I do not know.")
    assert answers(deployed)[0].startswith("Error: the server demo was lost while demo__wait ran. It may have taken")
    if way == "http":
        demo.http(*era, port=port_of(server))
    deployed.gateway.wait_for(lambda: len(demo.read("starts")) == 2)
    again = deployed.start("Add", threadId=run["threadId"])
    assert_events(deployed.events(again), "threadInfo function_call delta+ end", text="3.")
    assert len(demo.read("starts")) == 2


def test_a_call_that_may_be_repeated_is_repeated(deployed_with, demo):
    """With the server that was started again; the model does not notice."""
    deployed = deployed_with([call("demo__wait_again")], "Done.", demo=demo.stdio())
    run = deployed.start("Wait")
    deployed.gateway.wait_for(lambda: demo.has("waiting"))

    demo.kill()
    deployed.gateway.wait_for(lambda: len(demo.read("calls")) == 2)
    demo.write("go")

    deployed.events(run)
    assert (answers(deployed), len(demo.read("starts"))) == (["waited"], 2)


@ERAS
def test_a_server_that_was_restarted_between_calls_is_not_noticed(plugin, demo, era):
    """As after a deployment of a server over HTTP, which knows nothing of earlier sessions."""
    server = demo.http(*era)
    servers = plugin(demo=server)
    assert "demo__add" in servers.offered()

    demo.kill()
    demo.http(*era, port=port_of(server))
    until(servers.offered)

    assert servers.ask("demo__add", {"a": 1, "b": 2}) == "3"


def test_a_server_that_is_down_stops_no_run_and_is_reported_once(plugin, demo, other, caplog):
    """Its tools are missing until it is there; the others' are not. The log has one line for the outage, one after."""
    caplog.set_level(logging.INFO, "bf_hook_mcp")
    servers = plugin(demo=demo.stdio("--fail", "no database"), other=other.stdio(tools=["add"]))
    assert servers.offered() == ["other__add"]
    until(lambda: len(demo.read("starts")) > 3)
    assert servers.offered() == ["other__add"]
    assert servers.ask("demo__add") == "Error: the server demo cannot be reached at the moment. Nothing happened."
    (line,) = caplog.records
    assert line.levelname == "WARNING"
    assert line.message.startswith("MCP server demo is down, its tools are left out until it is back: ")
    assert line.message.endswith("; its last words: no database")

    demo.write("healthy")
    until(lambda: len(servers.offered()) == len(TOOLS) + 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "MCP server demo is back after" in caplog.text


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--mute"], "TimeoutError: it was not ready within 0.5 seconds"),
        (None, "FileNotFoundError"),
    ],
    ids=["silent", "no such program"],
)
def test_a_server_that_does_not_start_is_explained(plugin, demo, caplog, option, said):
    """The operator reads why; the run goes on without."""
    server = {"command": "/no/such/program"} if option is None else demo.stdio(*option, connect_timeout=0.5)
    assert plugin(demo=server).offered() == []
    until(lambda: said in caplog.text)


def test_a_program_that_ends_at_the_news_of_the_protocol_is_spoken_to_as_before(plugin, demo, caplog):
    """Servers made with mcp 1.9 end when they are asked what they know; with the next start they are not asked."""
    servers = plugin(demo=demo.stdio("--ancient"))
    assert len(servers.offered()) == len(TOOLS)
    assert servers.ask("demo__add", {"a": 1, "b": 2}) == "3"
    assert len(demo.read("starts")) == 2
    assert caplog.text == ""


def test_a_server_that_is_busy_is_not_taken_for_dead(plugin, demo):
    """While it does what a run asked of it, it may have no time to list its tools."""
    servers = plugin(demo=demo.stdio(refresh=0.05, connect_timeout=3))
    servers.offered()
    answer = servers.begin("demo__wait")
    until(lambda: demo.has("waiting"))
    demo.write("busy")
    listings = len(demo.read("listings"))
    until(lambda: len(demo.read("listings")) > listings + 1)  # so one of them got no answer in time
    (demo.folder / "busy").unlink()
    demo.write("go")
    assert answer.result(timeout=20) == "waited"


def test_a_token_is_sent_and_never_said(plugin, demo, monkeypatch, caplog):
    """A server that wants one gets it from the environment; what it refuses is explained without it."""
    monkeypatch.setenv("DEMO_TOKEN", "sesame-open-0815")
    server = demo.http("--token", "Bearer sesame-open-0815")
    right = plugin(demo={**server, "headers": {"Authorization": "Bearer ${DEMO_TOKEN}"}})
    assert len(right.offered()) == len(TOOLS)

    monkeypatch.setenv("DEMO_TOKEN", "sesame-shut-0815")
    with caplog.at_level(logging.DEBUG):
        wrong = plugin(demo={**server, "headers": {"Authorization": "Bearer ${DEMO_TOKEN}"}})
        assert wrong.offered() == []
    assert "the server answered with HTTP status 401" in caplog.text
    assert "sesame" not in caplog.text


# Slow, stopped, changed ----------------------------------------------------------------------------------------------


def test_a_slow_call_is_given_up_and_cancelled(deployed_with, demo):
    """After the time-out of its server, which is told."""
    deployed = deployed_with([call("demo__wait")], "It takes long.", demo=demo.stdio(timeout=1))
    deployed.events(deployed.start("Wait"))
    assert answers(deployed)[0].startswith("Error: demo__wait did not answer within 1 seconds.")
    deployed.gateway.wait_for(lambda: demo.read("cancelled"))


@WAYS
def test_a_call_of_a_run_that_is_stopped_is_cancelled(deployed_with, demo, way):
    """The server is told at once."""
    deployed = deployed_with([call("demo__wait")], demo=getattr(demo, way)())
    run = deployed.start("Wait")
    deployed.gateway.wait_for(lambda: demo.has("waiting"))

    deployed.stop(run)

    deployed.gateway.wait_for(lambda: demo.read("cancelled"))
    assert deployed.events(run)[-1]["finish_reason"] == "cancelled"


@WAYS
@ERAS
def test_a_list_that_changes_is_read_again(plugin, demo, way, era):
    """When the server says so: the next run has the new tool."""
    servers = plugin(demo=getattr(demo, way)(*era))
    assert "demo__grown" not in servers.offered()
    assert servers.ask("demo__change", {"name": "grown"}) == "changed"
    until(lambda: "demo__grown" in servers.offered())
    assert servers.ask("demo__grown") == "this is grown"


def test_a_list_is_read_again_now_and_then(plugin, demo):
    """For servers that change without a word."""
    servers = plugin(demo=demo.stdio(refresh=0.05))
    assert len(servers.offered()) == len(TOOLS)
    demo.write("tools", "silent")
    until(lambda: "demo__silent" in servers.offered())


def test_the_processes_end_with_the_gateway(plugin, demo):
    """None is left behind, and none is there before it is needed: a gateway may fork after it has loaded us."""
    servers = plugin(demo=demo.stdio())
    assert demo.read("starts") == []
    servers.offered()
    (pid,) = demo.read("starts")
    servers.close()
    until(lambda: not Path("/proc", pid).exists())


def test_an_operator_can_try_the_servers(demo, tmp_path, capsys, caplog):
    """From the file of the settings, without a gateway: what is there, and why something is not."""
    file = tmp_path / "apps.toml"
    assert main([]) == main([str(file)]) == 2
    server = demo.stdio(tools=["add", "long"])
    table = f"[plugins.mcp.servers.demo]\ncommand = {server['command']!r}\nargs = {server['args']!r}\n"
    file.write_text(f"{table}tools = ['add', 'long']\n")
    capsys.readouterr()
    assert main([str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "demo: 2 tools",
        "  demo__add (may be repeated)  Add two numbers.",
        "  demo__long  Say more than is good.",
    ]
    file.write_text("[plugins.mcp.servers.gone]\ncommand = '/no/such/program'")
    assert main([str(file)]) == 1
    assert capsys.readouterr().out == "gone: down\n"
    assert "FileNotFoundError" in caplog.text


def test_it_keeps_the_rules(demo):
    """Hooks, types, threads, failures: what bf_plugin asks of every distribution, without servers and with one."""
    check_plugin("bf-hook-mcp")
    check_plugin(create, section={"servers": {"demo": demo.stdio()}})
