"""Runs whose tool calls become FileMaker scripts: what the model is told when it works, and when it does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from bf_hook_filemaker.plugin import result
from bf_hook_filemaker.testing import Ended, FakeCallback, FakeFileMaker

from bf_plugin.testing import Deployment, assert_events, call, check_plugin

Scripted = Callable[..., Deployment]
Sections = Callable[..., dict[str, Any]]

APPS = {"portal": {"api_keys": ["BFAPI_demo"]}, "other": {"api_keys": ["BFAPI_other"]}}
IN_DOUBT = "It may have taken effect: do not call it again without asking the user."
CONFIGURATION = "Calling it again does not help: tell the user that this is not available now."


def told(deployed: Deployment, step: int = 1) -> str:
    """Return what the model was told about the call of the step before."""
    (item,) = [item for item in deployed.engine.requests[step].new if item["type"] == "function_output"]
    return str(item["output"])


def ask(scripted: Scripted, section: dict[str, Any], arguments: dict[str, Any] | None = None, **options: Any) -> str:
    """Let a model call `find_order` in a run that goes on to its end; return what the model was told."""
    script = [call("find_order", {"number": 1001} if arguments is None else arguments)]
    deployed = scripted(script, "So it is.", sections={"filemaker": section}, **options)
    run = deployed.start("Where is my order?")
    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="So it is.", finish_reason="stop")
    return told(deployed)


def several(section: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with tools `tool_0`, `tool_1` and so on, each like `find_order` but for its changes."""
    (tool,) = section["tools"].values()
    tools = {f"tool_{number}": {**tool, **change} for number, change in enumerate(changes)}
    return {**section, "tools": tools}


def tell(scripted: Scripted, section: dict[str, Any], **options: Any) -> list[str]:
    """Let a model call all the tools in one step of a run that goes on to its end; return what it was told of each."""
    calls = [call(name, {"number": 1001}) for name in section["tools"]]
    deployed = scripted(calls, "So it is.", sections={"filemaker": section}, **options)
    assert_events(deployed.events(deployed.start("Hi")), "threadInfo function_call delta+ end", text="So it is.")
    return [item["output"] for item in deployed.engine.requests[1].new if item["type"] == "function_output"]


def test_a_script_answers_the_call(scripted: Scripted, section: Sections) -> None:
    """The model is offered the tool as declared, calls it, and has the script's JSON."""
    deployed = scripted(
        [call("find_order", {"number": 1001})], "Shipped.", sections={"filemaker": section(idempotent=True)}
    )
    assert_events(deployed.events(deployed.start("Hi")), "threadInfo function_call delta+ end", text="Shipped.")
    assert json.loads(told(deployed)) == {"number": 1001, "status": "shipped"}
    (offered,) = [tool for tool in deployed.engine.requests[0].tools if tool.get("name") == "find_order"]
    assert offered["description"] == "Find an order."
    assert offered["parameters"]["properties"] == {"number": {"type": "integer", "minimum": 1000}}
    assert offered["parameters"]["additionalProperties"] is False


def test_the_script_is_told_who_asks_what(scripted: Scripted, section: Sections) -> None:
    """Arguments travel as JSON, with a key by which a script knows a call that comes again."""
    arguments = {"number": 1001, "note": 'Grüße & "mehr" = 100 % 東京 🏔 \\ ?#/+'}
    free = {"type": "object", "additionalProperties": True}
    deployed = scripted(
        [call("find_order", arguments)], "Yes.", sections={"filemaker": section(script="echo", parameters=free)}
    )
    run = deployed.start("Hi")
    deployed.events(run)
    parameter = json.loads(told(deployed))
    assert parameter["arguments"] == arguments
    assert (parameter["tool"], parameter["runId"]) == ("find_order", run["runId"])
    assert parameter["idempotencyKey"].startswith(f"{run['runId']}:")


def test_a_result_that_is_no_json_is_text(scripted: Scripted, section: Sections) -> None:
    """A script may answer in plain words, or not at all."""
    assert tell(scripted, several(section(), {"script": "say text"}, {"script": "say nothing"})) == [
        "Grüße, 42 Stück",
        "The script ran, and returned nothing.",
    ]


@pytest.mark.parametrize("text", ["NaN", "1e999", '{"a": Infinity}', "[" * 100_000, "{", "1,5"])
def test_what_only_looks_like_json_is_text(text: str) -> None:
    """It reaches the model as it is, and fails nothing."""
    assert result(text) == text


def test_a_long_parameter_travels_with_a_search(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """With `find`, the parameter is in a body, and has no limit."""
    free = {"type": "object", "additionalProperties": True}
    text = ask(
        scripted, section(script="echo", parameters=free, find={"id": "*"}), {"number": 1001, "note": "x" * 20_000}
    )
    assert len(json.loads(text)["arguments"]["note"]) == 20_000
    assert server.requests[-1].path.endswith("/layouts/API/_find")


def test_arguments_that_do_not_fit_are_explained(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """The script is not run; the model reads which argument to change."""
    text = ask(scripted, section(), {"number": 7, "colour": "red"})
    assert text.startswith("Error: find_order: the arguments do not fit: ")
    assert "number: 7 is less than the minimum of 1000" in text
    assert "'colour' was unexpected" in text
    assert server.requests == []


def test_an_error_of_the_script_is_readable(scripted: Scripted, section: Sections) -> None:
    """The model reads what the number means and what to do."""
    assert ask(scripted, section(), {"number": 1002}) == (
        "Error: find_order: no records match the request (FileMaker error 401). "
        "Call it again with other arguments, or tell the user."
    )


def test_what_a_failing_script_says_is_passed_on(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """A script may say more than its error's number, also with a number of its own."""
    server.scripts["find order"] = lambda _: Ended("the order is locked by Ann", error=5123)
    assert ask(scripted, section()) == (
        "Error: find_order: the script ended with an error (FileMaker error 5123), and said: "
        "the order is locked by Ann. Tell the user what happened."
    )


def test_mistakes_of_the_operator(
    scripted: Scripted, section: Sections, server: FakeFileMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """The model does not try again; the operator finds what to look at in the log."""
    settings = several(
        section(),
        {"script": "no such"},
        {"layout": "no such"},
        {"connection": "wrong_password"},
        {"connection": "wrong_database"},
    )
    settings["connections"]["wrong_password"] = server.connection(password="geheim", apps=["portal"])
    settings["connections"]["wrong_database"] = server.connection(database="no such", apps=["portal"])
    settings["connections"]["sales"]["apps"] = ["portal"]
    for tool in settings["tools"].values():
        tool.setdefault("connection", "sales")

    answers = tell(scripted, settings, apps=APPS)

    expected = {
        "the script is missing (FileMaker error 104)": "is `script` spelled",
        "the layout is missing (FileMaker error 105)": "is `layout` spelled",
        "the account or its password is refused (FileMaker error 212)": "check `account`",
        "the database cannot be opened (FileMaker error 802)": "is the file open",
    }
    assert [answer.partition(": ")[2].partition(": ")[2] for answer in answers] == [
        f"{text}. {CONFIGURATION}" for text in expected
    ]
    logged = [record.getMessage() for record in caplog.records if record.name == "bf_hook_filemaker.plugin"]
    assert all(any(advice in line for line in logged) for advice in expected.values())
    assert any("tool tool_2 on connection wrong_password" in line for line in logged)
    assert "geheim" not in caplog.text + str(answers)


def test_failures_of_the_server(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """Whatever the server does, the model reads a sentence and the run goes on."""
    expected = {
        "cut": "the connection broke before the answer came",
        "cut_body": "the connection broke before the answer came",
        "html": f"HTTP status 503 and not as the FileMaker Data API does. {IN_DOUBT}",
        "not_found": f"HTTP status 404 and not as the FileMaker Data API does. {CONFIGURATION}",
        "not_json": "HTTP status 200 and not as the FileMaker Data API",
        "large": "more than the 262144 bytes allowed",
        "drip": "no answer came within 2 seconds",
    }
    for fault in expected:
        server.fault(fault)  # type: ignore[arg-type]  # a literal
    script = [[call("find_order", {"number": 1001})] for _ in expected]
    deployed = scripted(*script, "So it is.", sections={"filemaker": section(timeout=2)})
    assert_events(deployed.events(deployed.start("Hi")), "threadInfo function_call+ delta+ end", text="So it is.")
    for step, text in enumerate(expected.values(), start=1):
        assert text in told(deployed, step)


def test_a_slow_script(scripted: Scripted, section: Sections) -> None:
    """It is given up after its time; whether it may be repeated depends on what the operator said of it."""
    slow = {"script": "hold", "timeout": 0.3}
    assert tell(scripted, several(section(), slow, {**slow, "idempotent": True})) == [
        f"Error: tool_0: no answer came within 0.3 seconds. {IN_DOUBT}",
        "Error: tool_1: no answer came within 0.3 seconds. It is safe to call it again, once.",
    ]


def test_a_server_that_is_down(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """Nothing was called, so it may be tried again."""
    settings = section()
    server.stop()
    assert ask(scripted, settings) == (
        "Error: find_order: it was not called, the server cannot be reached. "
        "Try once more in a moment; if it fails again, tell the user."
    )


def test_a_server_that_takes_no_more_sessions(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """The model is told to try later."""
    server.session_limit = 0
    assert "takes no more sessions (FileMaker error 812). Try once more" in ask(scripted, section())


def test_a_session_that_has_ended_is_renewed(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """Nobody notices: the call is made in a new session, once."""
    ran: list[str] = []

    def count(parameter: str) -> str:
        ran.append(parameter)
        server.expire()
        return "[]"

    server.scripts["find order"] = count
    deployed = scripted(
        [call("find_order", {"number": 1001})],
        [call("find_order", {"number": 1002})],
        "Done.",
        sections={"filemaker": section()},
    )
    deployed.events(deployed.start("Hi"))
    assert [told(deployed, 1), told(deployed, 2)] == ["[]", "[]"]
    assert len(ran) == 2
    assert [request.path.rpartition("/")[2] for request in server.requests if "/script/" not in request.path] == [
        "sessions",
        "sessions",
    ]


def test_a_script_knows_a_call_that_comes_again(
    scripted: Scripted, section: Sections, server: FakeFileMaker, held: Any
) -> None:
    """After a restart in mid-call the tool is called again, as it is idempotent, with the same key."""
    keys: list[str] = []

    def book(parameter: str) -> str:
        keys.append(json.loads(parameter)["idempotencyKey"])
        return str(held(parameter)) if len(keys) == 1 else "booked"

    server.scripts["find order"] = book
    settings = section(idempotent=True)
    deployed = scripted([call("find_order", {"number": 1001})], "Done.", sections={"filemaker": settings})
    run = deployed.start("Hi")
    held.wait_started()
    deployed.restart()
    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="Done.")
    assert told(deployed) == "booked"
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_sessions_are_ended_with_the_gateway(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """They count against the server's limit, so they are not left behind."""
    deployed = scripted([call("find_order", {"number": 1001})], "Done.", sections={"filemaker": section()})
    deployed.events(deployed.start("Hi"))
    assert len(server.sessions) == 1
    deployed.restart()
    assert server.sessions == []


def test_no_credential_is_in_a_log(
    scripted: Scripted, section: Sections, server: FakeFileMaker, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither password nor token, whatever happens and however much is logged."""
    caplog.set_level(logging.DEBUG, "bf_hook_filemaker")
    caplog.set_level(logging.DEBUG, "bf_plugin")
    server.scripts["find order"] = lambda _: Ended(f"logged in with {server.password}", error=9)
    server.fault("cut")
    deployed = scripted(
        [call("find_order", {"number": 1001})],
        [call("find_order", {"number": 1001})],
        "Done.",
        sections={"filemaker": section()},
    )
    deployed.events(deployed.start("Hi"))
    written = caplog.text + told(deployed, 1) + told(deployed, 2)
    assert "and said: logged in with [redacted]. " in told(deployed, 2)
    assert "logged in with" not in caplog.text
    secrets = {server.password, *(request.headers.get("Authorization", "x ").split()[1] for request in server.requests)}
    assert [secret for secret in secrets if secret in written] == []


def test_each_app_has_its_own_connection(scripted: Scripted, section: Sections, server: FakeFileMaker) -> None:
    """An app without a connection is not offered the tool, and cannot have it called."""
    settings = section(connection={"apps": ["portal"]})
    answer = ask(scripted, settings, apps=APPS)
    assert json.loads(answer)["status"] == "shipped"
    server.requests.clear()
    settings["connections"]["sales"]["apps"] = ["other"]
    assert ask(scripted, settings, apps=APPS).startswith("Error: unknown tool find_order.")
    assert server.requests == []


def test_a_listed_tool_is_the_callers_to_offer(scripted: Scripted, section: Sections) -> None:
    """With `offer = "listed"` only callers that list the tool have it."""
    deployed = scripted("Hello.", "Hello again.", sections={"filemaker": section(offer="listed")})
    deployed.events(deployed.start("Hi"))
    listed = {"type": "function", "name": "find_order", "parameters": {"type": "object", "properties": {}}}
    deployed.events(deployed.start("Hi", tools=[listed]))
    first, second = deployed.engine.requests
    assert "find_order" not in [tool.get("name") for tool in first.tools]
    assert [tool["name"] for tool in second.tools if tool.get("name") == "find_order"] == ["find_order"]


def test_a_callback_answers_the_call(scripted: Scripted) -> None:
    """The app's endpoint has the call, its key, and the key by which it knows a repetition."""
    with FakeCallback(lambda body: {"got": body["arguments"]}) as app:
        answer = ask(scripted, callback(app))
        assert json.loads(answer) == {"got": {"number": 1001}}
        (request,) = app.requests
    assert request.headers["X-Api-Key"] == app.key
    assert request.headers["Idempotency-Key"] == request.json()["idempotencyKey"]


def test_what_a_callback_says(scripted: Scripted) -> None:
    """Words are a result; a status tells what to do, and the app's own words come along."""
    said: dict[str, Any] = {
        "In plain words.": "In plain words.",
        "the app has no such endpoint (HTTP status 404). Calling it again does not help": (404, "x"),
        "HTTP status 422, and said: no such order. Call it again with other": (422, {"message": "no such order"}),
        "the app answered with HTTP status 500. It may have taken effect": (500, "<html>oops</html>"),
        "could not answer now (HTTP status 503), and said: busy. It may have taken": (503, {"error": "busy"}),
    }
    answers = list(said.values())
    with FakeCallback(lambda body: answers[int(body["tool"].removeprefix("tool_"))]) as app:
        for text, answer in zip(said, tell(scripted, several(callback(app), *({} for _ in said))), strict=True):
            assert text in answer


def test_a_callback_with_another_key(scripted: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    """The model is told that it is of no use, the operator what to compare."""
    with FakeCallback(lambda _: "x") as app:
        settings = callback(app)
        settings["connections"]["app"]["key"] = "another-key"
        assert ask(scripted, settings) == f"Error: find_order: the app refused the call. {CONFIGURATION}"
    assert "compare `key`" in caplog.text
    assert "another-key" not in caplog.text


def callback(app: FakeCallback) -> dict[str, Any]:
    """Return settings with the tool on a callback."""
    parameters = {"properties": {"number": {"type": "integer"}}}
    tool = {"description": "Find an order.", "parameters": parameters, "timeout": 5.0}
    return {"connections": {"app": app.connection()}, "tools": {"find_order": tool}}


def test_it_keeps_the_rules(section: Sections) -> None:
    """Hooks, types, threads, failures: what bf_plugin asks of every distribution, without settings and with them."""
    check_plugin("bf-hook-filemaker")
    check_plugin("bf-hook-filemaker", section=section())
