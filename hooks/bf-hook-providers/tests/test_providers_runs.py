"""Whole runs through the mounted endpoint, with each provider: text, tools, stops, failures, threads."""

from __future__ import annotations

import json

import pytest

from bf_plugin.testing import assert_events
from bf_plugin.testing.provider import call
from providers_support.script import Answer, Call, Pause

KEY = "sk-secret-of-the-caller-0123456789"
PLACE = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": PLACE}}


def payload(dialect, **more):
    return {"provider": dialect.name, "model": dialect.model, "apiKey": KEY, **more}


def error_of(deployed, run):
    """Return the error that a run ended with."""
    (event,) = [event for event in deployed.events(run) if event["type"] == "error"]
    return event["error"]


def test_text_is_streamed(deployed, wire, dialect):
    """The page gets the text and the usage; the provider got the caller's key, the thread and nothing else."""
    wire.script(dialect.answer("Hello, ", "wörld", " \N{GRINNING FACE}"))

    run = deployed.start("Hi", instructions="Be brief.", **payload(dialect))

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ end", text="Hello, wörld \N{GRINNING FACE}", finish_reason="stop")
    assert events[-1]["usage"] == {"prompt_tokens": 25, "completion_tokens": 7, "total_tokens": 32}
    (request,) = wire.requests
    assert (request.path, dialect.key_of(request)) == (dialect.path, KEY)
    assert dialect.said(request.body) == [("system", "Be brief."), ("user", "Hi")]


def test_a_polling_start(deployed, wire, dialect):
    """Without streaming the answer is in the HTTP answer."""
    wire.script(dialect.answer("Hel", "lo"))
    answer = deployed.poll("Hi", **payload(dialect))
    assert answer["data"] == [{"type": "text", "text": {"value": "Hello"}}]


def test_parallel_calls(deployed, wire, dialect):
    """Two calls of one step are answered together, in order, in the next; a failing tool's answer says so."""
    calls = [Call("call_a", "weather", {"place": "Berlin"}), Call("call_b", "weather", {"place": "Nowhere"})]
    wire.script(dialect.answer("Let me see. ", *calls), dialect.answer("Fine, ", "it seems."))

    run = deployed.start("How is it?", tools=[WEATHER], **payload(dialect))

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ function_call delta+ end", text="Let me see. Fine, it seems.")
    assert events[-1]["usage"] == {"prompt_tokens": 50, "completion_tokens": 14, "total_tokens": 64}
    said = dialect.said(wire.requests[1].body)
    assert said[:-1] == [
        ("user", "How is it?"),
        ("assistant", "Let me see. "),
        ("assistant", 'weather({"place": "Berlin"})'),
        ("assistant", 'weather({"place": "Nowhere"})'),
        ("user", "-> fine in Berlin"),
    ]
    assert "there is no such place" in said[-1][1]


def test_a_forced_call_is_forced_once(deployed, wire, dialect):
    """`tool_choice` holds for the first step, else the run would never end."""
    wire.script(dialect.answer(Call("call_a", "weather", {"place": "Berlin"})), dialect.answer("Fine."))
    choice = {"type": "function", "function": {"name": "weather"}}

    run = deployed.start("How is it?", tools=[WEATHER], tool_choice=choice, **payload(dialect))

    assert_events(deployed.events(run), "threadInfo function_call delta+ end", text="Fine.")
    first, second = (json.dumps(request.body) for request in wire.requests)
    forced = {
        "anthropic": '"tool_choice": {"type": "tool", "name": "weather"}',
        "gemini": '"functionCallingConfig": {"allowedFunctionNames": ["weather"], "mode": "ANY"}',
        "chat": '"tool_choice": {"type": "function", "function": {"name": "weather"}}',
    }[dialect.name]
    assert forced in first
    assert forced not in second
    assert "weather" in second


def test_a_stop_closes_the_connection(deployed, wire, dialect):
    """A stop in mid-stream ends the run, and the provider sees its client go; what was said stays in the thread."""
    pause = Pause()
    wire.script(dialect.answer("So far ", pause, "and on"), dialect.answer("Good."))
    run = deployed.start("Tell me", **payload(dialect))
    deployed.wait_for_text(run, "So far ")

    deployed.stop(run)

    events = deployed.events(run)
    assert_events(events, "threadInfo delta+ end", text="So far ", finish_reason="cancelled")
    pause.wait_left()
    again = deployed.start("Thanks", thread_id=run["threadId"], **payload(dialect))
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    assert dialect.said(wire.requests[1].body) == [("user", "Tell me"), ("assistant", "So far "), ("user", "Thanks")]


def test_a_stop_while_a_tool_is_called(deployed, wire, dialect):
    """A stop between two steps: the thread goes on, and its next request has an answer for every call."""
    pause = Pause()
    calls = [Call("call_a", "weather", {"place": "Berlin"}), Call("call_b", "weather", {"place": "Paris"})]
    wire.script(dialect.answer(*calls), dialect.answer(pause), dialect.answer("Good."))
    run = deployed.start("How is it?", tools=[WEATHER], **payload(dialect))
    pause.wait_reached()

    deployed.stop(run)

    assert_events(deployed.events(run), "threadInfo function_call end", finish_reason="cancelled")
    again = deployed.start("Thanks", thread_id=run["threadId"], **payload(dialect))
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Good.")
    said = dialect.said(wire.requests[2].body)
    assert said[-3:] == [("user", "-> fine in Berlin"), ("user", "-> fine in Paris"), ("user", "Thanks")]


def test_a_thread_goes_from_provider_to_provider(deployed, wire, dialect):
    """Begun at OpenAI with a tool, continued here with one, taken back: each is sent the whole thread."""
    deployed.provider.script(call("weather", {"place": "Berlin"}))
    deployed.provider.script("Fine in Berlin.")
    first = deployed.start("And Berlin?", tools=[WEATHER])
    assert_events(deployed.events(first), "threadInfo function_call delta+ end", text="Fine in Berlin.")

    wire.script(dialect.answer(Call("call_z", "weather", {"place": "Paris"})), dialect.answer("In Paris too."))
    thread = {"thread_id": first["threadId"], "tools": [WEATHER]}
    second = deployed.start("And Paris?", **thread, **payload(dialect))
    assert_events(deployed.events(second), "threadInfo function_call delta+ end", text="In Paris too.")

    deployed.provider.script("You are welcome.")
    third = deployed.start("Thanks", **thread)
    assert_events(deployed.events(third), "threadInfo delta+ end", text="You are welcome.")

    before = [
        ("user", "And Berlin?"),
        ("assistant", 'weather({"place": "Berlin"})'),
        ("user", "-> fine in Berlin"),
        ("assistant", "Fine in Berlin."),
        ("user", "And Paris?"),
    ]
    calling = [("assistant", 'weather({"place": "Paris"})'), ("user", "-> fine in Paris")]
    assert dialect.said(wire.requests[0].body) == before
    assert dialect.said(wire.requests[1].body) == [*before, *calling]
    kinds = [item["type"] for item in deployed.asked[-1]["input"]]
    round_trip = ["message", "function_call", "function_call_output", "message"]
    assert kinds == [*round_trip, *round_trip, "message"]
    assert "previous_response_id" not in deployed.asked[-1]


@pytest.mark.parametrize("end", ["length", "content_filter"])
def test_endings(deployed, wire, dialect, end):
    """An answer that was cut at the limit, or that the provider would not give, ends so, with what was said."""
    finish = {
        "anthropic": {"length": "max_tokens", "content_filter": "refusal"},
        "gemini": {"length": "MAX_TOKENS", "content_filter": "SAFETY"},
        "chat": {"length": "length", "content_filter": "content_filter"},
    }[dialect.name][end]
    wire.script(dialect.answer("So far", finish=finish))
    run = deployed.start("Hi", **payload(dialect))
    assert_events(deployed.events(run), "threadInfo delta+ end", text="So far", finish_reason=end)


def test_an_error_in_mid_stream(deployed, wire, dialect):
    """What came before it is the page's; the run fails with the provider's words, and the thread goes on."""
    wire.script(dialect.begun("So far", dialect.error_event("we are overloaded")), dialect.answer("Ok"))

    run = deployed.start("Hi", **payload(dialect))

    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far", finish_reason="error")
    assert "we are overloaded" in error_of(deployed, run)["message"]
    again = deployed.start("Hi", thread_id=run["threadId"], **payload(dialect))
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Ok")


def test_an_error_before_the_first_word(deployed, wire, dialect):
    """A stream that begins with an error is a refusal: the start is answered with it."""
    wire.script(Answer([dialect.error_event("we are overloaded")]))
    error = deployed.refused(502, deployed.body("Hi", stream=False, **payload(dialect)))
    assert "we are overloaded" in error["message"]


@pytest.mark.parametrize("complete", [False, True])
def test_a_stream_that_breaks_off(deployed, wire, dialect, complete):
    """Neither a cut connection nor an end before the ending is taken for an answer."""
    pause = Pause()
    answer = dialect.begun("So far", complete=complete)
    answer.pieces.append(pause)
    wire.script(answer)
    run = deployed.start("Hi", **payload(dialect))
    deployed.wait_for_text(run, "So far")

    pause.release()

    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far", finish_reason="error")
    assert error_of(deployed, run)["code"] == "provider_lost_response"


@pytest.mark.parametrize(("status", "answered"), [(400, 400), (404, 400), (413, 400), (500, 502), (529, 502)])
def test_refusals(deployed, wire, dialect, status, answered):
    """A refused start is answered with the provider's words, and nothing of the run is left."""
    wire.script(dialect.refusal(status, f"no such thing, {KEY}"))
    error = deployed.refused(answered, deployed.body("Hi", stream=False, **payload(dialect)))
    assert "no such thing" in error["message"]
    assert KEY not in json.dumps(error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key(deployed, wire, dialect, caplog, status):
    """401 for the caller's key, which is named; the provider's text, which quotes it, goes nowhere."""
    wire.script(dialect.refusal(status, f"invalid key {KEY}"))
    error = deployed.refused(401, deployed.body("Hi", stream=False, **payload(dialect)))
    assert "payload.apiKey" in error["errors"]
    assert KEY not in json.dumps(error) + caplog.text


def test_a_refused_operators_key(begin, wire, dialect, caplog):
    """502: it is nothing the caller can do about. The key is the operator's, and in no answer and no log."""
    wire.script(dialect.refusal(401, "invalid key sk-operators-own"))
    deployed = begin({"api_key": "sk-operators-own"})
    error = deployed.refused(502, deployed.body("Hi", stream=False, **payload(dialect, apiKey=None)))
    assert "tell the operator" in error["message"]
    assert dialect.key_of(wire.requests[0]) == "sk-operators-own"
    assert "sk-operators-own" not in json.dumps(error) + caplog.text


def test_a_limited_rate(deployed, wire, dialect):
    """429 is passed on, with the time to wait."""
    wire.script(dialect.refusal(429, "slow down", Retry_After="17"))
    answer = deployed.post("", deployed.body("Hi", stream=False, **payload(dialect)))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "17")


def test_a_redirect_is_not_followed(deployed, wire, dialect):
    """It would carry the key to wherever a server says."""
    wire.script(Answer([], 307, {"Location": f"{wire.url}/elsewhere"}))
    deployed.refused(502, deployed.body("Hi", stream=False, **payload(dialect)))
    assert [request.path for request in wire.requests] == [dialect.path]


def test_silence(begin, wire, dialect):
    """A provider that says nothing for too long: 502 before the run exists, an error after it has begun."""
    never, later = Pause(), Pause()
    wire.script(Answer([never]), dialect.answer("So far", later))
    deployed = begin({"silence": 0.4})

    error = deployed.refused(502, deployed.body("Hi", stream=False, **payload(dialect)))
    run = deployed.start("Hi", **payload(dialect))

    assert "said nothing" in error["message"]
    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far")
    assert error_of(deployed, run)["code"] == "provider_timeout"


def test_a_restart_in_mid_text(deployed, wire, dialect):
    """What was seen cannot be taken back, and the rest is not told again: the run ends with provider_lost_response."""
    pause = Pause()
    wire.script(dialect.answer("So far ", pause, "and on"))
    run = deployed.start("Hi", **payload(dialect))
    deployed.wait_for_text(run, "So far ")

    deployed.restart()

    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far ")
    assert error_of(deployed, run)["code"] == "provider_lost_response"


def test_a_restart_before_the_first_word(deployed, wire, dialect):
    """Nothing was seen: the step is asked for again, and the page notices nothing."""
    pause = Pause()
    wire.script(dialect.answer(pause, "never heard"), dialect.answer("Hello"))
    run = deployed.start("Hi", **payload(dialect))
    pause.wait_reached()

    deployed.restart()

    assert_events(deployed.events(run), "threadInfo delta+ end", text="Hello")
    assert [dialect.said(request.body) for request in wire.requests] == [[("user", "Hi")]] * 2


def test_deleting_a_thread(deployed, wire, dialect):
    """No provider keeps anything of it, so nothing is to be deleted there, and no key is asked for."""
    wire.script(dialect.answer("Hello"))
    thread = deployed.poll("Hi", **payload(dialect))["threadId"]
    path = f"{deployed.url}/stream/create/assistants/threads/{thread}"
    answers = []

    def delete():
        answers.append(deployed.http.delete(path, headers={"X-Api-Key": "BFAPI_demo"}))
        return answers[-1].status_code != 409  # the row of its run may not say yet that it has ended

    deployed.gateway.wait_for(delete)
    assert (answers[-1].status_code, answers[-1].json()["provider"]) == (200, "nothing")
