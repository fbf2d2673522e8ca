"""Whole runs through the mounted endpoint: text, tools, threads, stops, crashes."""

from __future__ import annotations

import json

import pytest
from cryptography.fernet import Fernet

from assistants_support.script import Annotated, Call, Cut, End, NextMessage, Refused
from assistants_support.server import KEY
from bf_plugin import Toolbox
from bf_plugin.testing import Gate, assert_events, check_plugin

PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PLACE}}

tools = Toolbox("almanac")


@tools.tool(idempotent=True)
def weather(place: str) -> str:
    """Tell the weather."""
    if place == "Nowhere":
        raise ValueError("there is no such place")
    return f"fine in {place}"


def asked(**more):
    return {"provider": "assistants", "model": "gpt-test", "apiKey": KEY, **more}


def stopped_in_the_second_turn(deployed):
    """Have one turn, stop the next after "So far "; return the first run."""
    first = deployed.start("Hi", **asked())
    deployed.events(first)
    run = deployed.start("Tell me", thread_id=first["threadId"], **asked())
    deployed.wait_for_text(run, "So far ")
    deployed.stop(run)
    deployed.events(run)
    return first


def error_of(deployed, run):
    (event,) = [event for event in deployed.events(run) if event["type"] == "error"]
    return event["error"]


def test_text_is_streamed(begin, server):
    """The page gets text and usage; the server got one message and one run, under the caller's key."""
    server.script("Hello, ", "wörld", " \N{GRINNING FACE}")
    deployed = begin()

    run = deployed.start("Hi", instructions="Be brief.", temperature=0.5, metadata={"a": "b"}, **asked())

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ end", text="Hello, wörld \N{GRINNING FACE}", finish_reason="stop")
    assert events[-1]["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    (body,) = server.bodies("/runs")
    assert body == {
        "assistant_id": body["assistant_id"],
        "model": "gpt-test",
        "instructions": "Be brief.",
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "stream": True,
    }
    assert {one.headers["Authorization"] for one in server.asked} == {f"Bearer {KEY}"}
    assert server.said() == [("user", "Hi"), ("assistant", "Hello, wörld \N{GRINNING FACE}")]


@pytest.mark.parametrize("piece", [1, 7])
def test_a_stream_in_splinters(begin, server, piece):
    """Reads of a few bytes change nothing; half an emoji waits for the other half, and a lone one is replaced."""
    server.piece = piece
    server.script("wör", "ld \ud83d", "\ude00 and \ud83d")
    deployed = begin()
    run = deployed.start("Hi", **asked())
    assert_events(deployed.events(run), "threadInfo delta+ end", text="wörld \N{GRINNING FACE} and \ufffd")


def test_annotations_of_a_polling_start(begin, server):
    """Without streaming the answer has the annotations, and the thread goes on."""
    citation = {"type": "file_citation", "text": "[0]", "start_index": 4, "end_index": 7}
    citation |= {"file_citation": {"file_id": "file-1"}}
    server.script("See ", Annotated("[0]", citation))

    answer = begin().poll("Hi", **asked())

    assert answer["data"] == [{"type": "text", "text": {"value": "See [0]", "annotations": [citation]}}]
    assert answer["usage"]["total_tokens"] == 12


def test_a_thread_is_continued(begin, server):
    """The second run is in the first one's thread, and adds what is new; two messages of a step stay two."""
    server.script("One.", NextMessage(), "Two.")
    server.script("Three.")
    deployed = begin()
    first = deployed.start("Count", **asked())
    assert_events(deployed.events(first), "threadInfo delta+ end", text="One.Two.")

    second = deployed.start("On", thread_id=first["threadId"], **asked())

    assert_events(deployed.events(second), "threadInfo delta+ end", text="Three.")
    said = ["Count", "One.", "Two.", "On", "Three."]
    assert [text for _, text in server.said()] == said
    assert len(server.paths("DELETE")) == 0
    assert len(server.bodies("/assistants")) == 1


def test_parallel_calls(begin, server):
    """The calls of a step are handed in together, and the run goes on; the usage is that of the whole run."""
    calls = [Call("call_a", "weather", {"place": "Berlin"}), Call("call_b", "weather", {"place": "Nowhere"})]
    server.script("Let me see. ", *calls)
    server.script("Fine, ", "it seems.")
    deployed = begin(plugins=[tools])

    run = deployed.start("How is it?", tools=[WEATHER], **asked())

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ function_call delta+ end", text="Let me see. Fine, it seems.")
    assert events[-1]["usage"] == {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
    (outputs,) = server.bodies("/submit_tool_outputs")
    assert outputs["tool_outputs"][0] == {"tool_call_id": "call_a", "output": "fine in Berlin"}
    assert "there is no such place" in outputs["tool_outputs"][1]["output"]
    assert len(server.thread.runs) == 1
    assert server.run.object["tools"][0]["function"]["name"] == "weather"


def test_a_thread_goes_on_after_tools(begin, server):
    """A run with tools leaves its thread as any other."""
    server.script(Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine.")
    server.script("Welcome.")
    deployed = begin(plugins=[tools])
    first = deployed.start("How is it?", tools=[WEATHER], **asked())
    deployed.events(first)
    second = deployed.start("Thanks", thread_id=first["threadId"], **asked())
    assert_events(deployed.events(second), "threadInfo delta+ end", text="Welcome.")
    assert [text for _, text in server.said()] == ["How is it?", "Fine.", "Thanks", "Welcome."]


def test_a_run_that_expires_while_a_tool_works(begin, server):
    """Its outputs are not taken any more: another run is told in words what was called and answered."""
    server.script(Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine.")
    expired = Refused(400, 'Runs in status "expired" do not accept tool outputs.')
    server.refuse("POST", "/submit_tool_outputs", expired)
    deployed = begin(plugins=[tools])

    run = deployed.start("How is it?", tools=[WEATHER], tool_choice="required", **asked())

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="Fine.")
    record = '[I called weather with {"place": "Berlin"}. The answer: fine in Berlin]'
    assert server.said() == [("user", "How is it?"), ("assistant", record), ("assistant", "Fine.")]
    assert [one.status for one in server.thread.runs] == ["cancelled", "completed"]
    assert [body["tool_choice"] for body in server.bodies("/runs")] == ["required", "auto"]


def test_a_stop_in_mid_stream(begin, server):
    """The run, its thread's first, is cancelled; the next turn finds there what the page has seen, and no more."""
    gate = Gate()
    server.script("So far ", gate, "and on")
    server.script("Good.")
    deployed = begin()
    run = deployed.start("Tell me", **asked())
    deployed.wait_for_text(run, "So far ")

    deployed.stop(run)

    assert_events(deployed.events(run), "threadInfo delta+ end", text="So far ", finish_reason="cancelled")
    server.wait_until(lambda: server.run.status == "cancelled")
    again = deployed.start("Thanks", thread_id=run["threadId"], **asked())
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    assert server.said() == [
        ("user", "Tell me"),
        ("assistant", "So far "),
        ("user", "Thanks"),
        ("assistant", "Good."),
    ]


def test_a_stop_in_a_continued_thread(begin, server):
    """What the page did not see is deleted from the thread, even if the run was still being cancelled."""
    gate = Gate()
    server.hold_cancelled = Gate()
    server.script("First.")
    server.script("So far ", gate, "and on")
    server.script("Good.")
    deployed = begin()
    first = stopped_in_the_second_turn(deployed)
    server.wait_until(lambda: server.run.status == "cancelling")

    again = deployed.start("Thanks", thread_id=first["threadId"], **asked())
    server.wait_until(lambda: sum(path.endswith("/runs") for path in server.paths("GET")) >= 2)
    server.hold_cancelled.release()

    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    texts = ["Hi", "First.", "Tell me", "So far ", "Thanks", "Good."]
    assert [text for _, text in server.said()] == texts
    assert [run.status for run in server.thread.runs] == ["completed", "cancelled", "completed"]


@pytest.mark.parametrize("locks", [True, False])
def test_a_stop_while_a_tool_works(begin, server, locks):
    """The run that waits for outputs is cancelled before the next turn, which is told that the call may have worked.

    So it is where the server would let the next turn in all the same.
    """
    server.locks = locks
    gate = Gate()

    slow = Toolbox("slow")

    @slow.tool()
    async def pay(amount: int) -> str:
        """Pay."""
        await gate.passed()
        return "paid"

    server.script("Wait. ", Call("call_a", "pay", {"amount": 5}))
    server.script("Good.")
    deployed = begin(plugins=[slow])
    pay_tool = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object", "properties": {}}}}
    run = deployed.start("Pay", tools=[pay_tool], **asked())
    gate.wait_reached()

    deployed.stop(run)

    assert_events(deployed.events(run), "threadInfo delta+ function_call? end", finish_reason="cancelled")
    assert server.run.status == "requires_action"
    again = deployed.start("Well?", thread_id=run["threadId"], **asked())
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    gate.release()
    assert [run.status for run in server.thread.runs] == ["cancelled", "completed"]
    who = [("user", "Pay"), ("assistant", "Wait. "), ("assistant", None), ("user", "Well?"), ("assistant", "Good.")]
    assert [role for role, _ in server.said()] == [role for role, _ in who]
    record = server.said()[2][1]
    assert record.startswith('[I called pay with {"amount": 5}.')
    assert "may have taken effect" in record


def test_a_run_that_cannot_be_cancelled(begin, server):
    """Its thread is left, and the conversation goes on in another, made from the history."""
    server.hold_cancelled = Gate()
    server.script("First.")
    server.script("So far ", Gate())
    server.script("Good.")
    deployed = begin({"cancel_seconds": 0.1})
    first = stopped_in_the_second_turn(deployed)

    again = deployed.start("Thanks", thread_id=first["threadId"], **asked())

    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    newest = list(server.threads.values())[-1]
    assert [text for _, text in server.said(newest)] == ["Hi", "First.", "Tell me", "So far ", "Thanks", "Good."]
    server.hold_cancelled.release()


def test_a_server_that_does_not_delete_messages(begin, server):
    """Where what is too much cannot be deleted, the conversation goes on in a new thread."""
    server.deletes_messages = False
    server.script("First.")
    server.script("So far ", Gate())
    server.script("Good.")
    deployed = begin()
    first = stopped_in_the_second_turn(deployed)
    again = deployed.start("Thanks", thread_id=first["threadId"], **asked())
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    newest = list(server.threads.values())[-1]
    assert [text for _, text in server.said(newest)] == ["Hi", "First.", "Tell me", "So far ", "Thanks", "Good."]


def test_a_thread_that_is_gone(begin, server):
    """The server has lost it: the conversation goes on in a new one, from the history."""
    server.script("One.")
    server.script("Two.")
    deployed = begin()
    first = deployed.start("Hi", **asked())
    deployed.events(first)
    server.threads.clear()

    second = deployed.start("On", thread_id=first["threadId"], **asked())

    assert_events(deployed.events(second), "threadInfo delta+ end", text="Two.")
    assert [text for _, text in server.said()] == ["Hi", "One.", "On", "Two."]


def test_another_provider_before(begin, server):
    """A thread that OpenAI began, with a tool, is brought along: calls as words, as no message can hold one."""
    from bf_plugin.testing.provider import call

    deployed = begin(plugins=[tools])
    deployed.provider.script(call("weather", {"place": "Berlin"}))
    deployed.provider.script("Fine in Berlin.")
    first = deployed.start("And Berlin?", tools=[WEATHER])
    deployed.events(first)
    server.script("Welcome.")

    second = deployed.start("Thanks", thread_id=first["threadId"], **asked())

    assert_events(deployed.events(second), "threadInfo delta+ end", text="Welcome.")
    texts = [text for _, text in server.said()]
    assert texts[0] == "And Berlin?"
    assert texts[1].endswith("The answer: fine in Berlin]")
    assert texts[2:] == ["Fine in Berlin.", "Thanks", "Welcome."]


def test_a_long_history(begin, server):
    """More messages than a new thread may begin with are added one by one, in order."""
    server.script("Ok.")
    deployed = begin()
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": f"m{number}"} for number in range(41)]
    run = deployed.start("Hi", messages=messages, **asked())
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Ok.")
    assert [text for _, text in server.said()] == [*(f"m{number}" for number in range(41)), "Ok."]


def test_a_cut_connection(begin, server):
    """The run is asked about until it is over; the page gets the missing tail, once."""
    seen, gate = Gate(), Gate()
    server.script("So far ", seen, Cut(), gate, "and on.", NextMessage(), "Bye.")
    deployed = begin()
    run = deployed.start("Hi", **asked())
    deployed.wait_for_text(run, "So far ")
    seen.release()
    server.wait_until(lambda: any("/runs/" in path for path in server.paths("GET")))

    gate.release()

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ end", text="So far and on.Bye.", finish_reason="stop")
    assert events[-1]["usage"]["total_tokens"] == 13


def test_a_cut_connection_before_calls(begin, server):
    """Calls are found in the run itself; and asking again does not take the answered ones for new."""
    server.script(Cut(), Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine ", Cut(), "there.")
    deployed = begin(plugins=[tools])
    run = deployed.start("How is it?", tools=[WEATHER], **asked())
    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="Fine there.")


def test_silence(begin, server):
    """A stream that says nothing for too long is left, and the run asked about."""
    gate = Gate()
    server.script("So far ", gate, "and on.")
    deployed = begin({"silence": 0.2})
    run = deployed.start("Hi", **asked())
    server.wait_until(lambda: any("/runs/" in path for path in server.paths("GET")))
    gate.release()
    assert_events(deployed.events(run), "threadInfo delta+ end", text="So far and on.")


def test_a_server_that_does_not_stream(begin, server):
    """It answers with the run itself; text comes when the run is over, and tools work."""
    server.streams = False
    server.script("Let me see. ", Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine.")
    deployed = begin(plugins=[tools])
    run = deployed.start("How is it?", tools=[WEATHER], **asked())
    assert_events(
        deployed.events(run),
        "threadInfo delta+ function_call delta+ end",
        text="Let me see. Fine.",
        finish_reason="stop",
    )


def test_a_restart_in_mid_text(begin, server):
    """Another drive asks about the run and sends the page what it has not seen."""
    gate = Gate()
    server.script("once upon ", gate, "a time")
    deployed = begin()
    run = deployed.start("Tell me a story", **asked())
    deployed.wait_for_text(run, "once upon ")

    deployed.restart()
    gate.release()

    assert_events(deployed.events(run), "threadInfo delta+ end", text="once upon a time")
    assert len(server.bodies("/runs")) == 1


def test_a_restart_behind_tools(begin, server):
    """The second step of a run is taken up by itself: the first one's text and calls do not come again."""
    gate = Gate()
    server.script("Let me see. ", Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine ", gate, "there.")
    server.script("Welcome.")
    deployed = begin(plugins=[tools])
    run = deployed.start("How is it?", tools=[WEATHER], **asked())
    deployed.wait_for_text(run, "Let me see. Fine ")

    deployed.restart()
    gate.release()

    text = "Let me see. Fine there."
    assert_events(deployed.events(run), "threadInfo delta+ function_call delta+ end", text=text)
    assert len(server.bodies("/submit_tool_outputs")) == 1
    again = deployed.start("Thanks", thread_id=run["threadId"], **asked())
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Welcome.")
    assert [text for _, text in server.said()] == ["How is it?", "Let me see. ", "Fine there.", "Thanks", "Welcome."]


def test_a_restart_while_a_tool_works(begin, server):
    """The tool is idempotent and runs again; its output goes to the run that still waits."""
    gate = Gate()
    slow = Toolbox("slow")

    @slow.tool(idempotent=True)
    async def look() -> str:
        """Look."""
        await gate.passed()
        return "seen"

    server.script(Call("call_a", "look", {}))
    server.script("Seen.")
    deployed = begin(plugins=[slow])
    look_tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    run = deployed.start("Look", tools=[look_tool], **asked())
    gate.wait_reached()

    deployed.restart()
    gate.release()

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="Seen.")
    assert len(server.thread.runs) == 1


def test_a_run_that_is_lost(begin, server):
    """A restart finds no such run: what the page has seen cannot be taken back, the run ends with an error."""
    gate = Gate()
    server.script("once upon ", gate)
    deployed = begin()
    run = deployed.start("Tell me a story", **asked())
    deployed.wait_for_text(run, "once upon ")
    deployed.application.close()
    server.threads.clear()

    deployed.restart()

    assert_events(deployed.events(run), "threadInfo delta+ error end", text="once upon ")
    assert error_of(deployed, run)["code"] == "provider_lost_response"


def test_a_crash(site, begin, server, tmp_path):
    """A killed process's run is taken over by another, this one: the page gets every character once."""
    apps = tmp_path / "apps.toml"
    apps.write_text(f'[plugins.assistants]\nbase_url = "{server.url}"\npoll_seconds = 0.01\n')
    shared = {"database_url": site.environ["BF_DATABASE_URL"], "secret_key": Fernet.generate_key().decode()}
    gate = Gate()
    server.script("once upon ", gate, "a time")
    environ = {"BF_APPS_FILE": str(apps), "BF_SECRET_KEY": shared["secret_key"]}
    process = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0", **environ)
    run = site.start(process.url, "Tell me a story", **asked())
    site.gateway.wait_for(lambda: site.gateway.text(run["runId"]) == "once upon ")

    process.kill()
    begin(messaging="http", **shared).application.start()
    gate.release()

    assert_events(site.events(run), "threadInfo delta+ end", text="once upon a time")
    assert len(server.bodies("/runs")) == 1


def test_deleting_a_thread(begin, server):
    """The server keeps nothing of it."""
    server.script("Ok.")
    deployed = begin()
    run = deployed.start("Hi", **asked())
    deployed.events(run)
    headers = {"X-Api-Key": deployed.body()["apiKey"], "X-Provider-Key": KEY}
    url = f"{deployed.url}/stream/create/assistants/threads/{run['threadId']}"
    answer = deployed.http.delete(url, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.json()["provider"] == "deleted"
    assert server.threads == {}


def test_it_keeps_the_rules():
    """The rules for engines, as `bf-plugin plugins` would report them."""
    check_plugin("bf-hook-assistants")


def test_the_key_is_nowhere(begin, server, caplog):
    """Neither in an error event nor in a log, whatever the server says."""
    server.script("So far", End("failed", message=f"bad key {KEY}"))
    deployed = begin()
    run = deployed.start("Hi", **asked())
    assert KEY not in json.dumps(deployed.events(run)) + caplog.text
