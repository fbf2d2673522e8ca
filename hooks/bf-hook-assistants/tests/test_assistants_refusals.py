"""What the server refuses, what the engine refuses by itself, and which assistant answers."""

from __future__ import annotations

import json

import pytest

from assistants_support.script import Cut, End, ErrorEvent, Refused
from assistants_support.server import KEY
from bf_plugin.testing import Gate, assert_events


def asked(**more):
    return {"provider": "assistants", "model": "gpt-test", "apiKey": KEY, **more}


def error_of(deployed, run):
    (event,) = [event for event in deployed.events(run) if event["type"] == "error"]
    return event["error"]


@pytest.mark.parametrize(("status", "answered"), [(404, 400), (409, 409), (422, 400), (503, 502)])
def test_refusals(begin, server, status, answered):
    """A refused start is answered with the server's words, and leaves no thread behind, here or there."""
    server.refuse("POST", "/runs", Refused(status, f"no such thing, {KEY}"))
    server.new_assistant("asst_mine")
    deployed = begin({"assistant_id": "asst_mine"})
    error = deployed.refused(answered, deployed.body("Hi", **asked()))
    assert "no such thing, [key]" in error["message"]
    assert server.threads == {}


def test_a_refused_key(begin, server, caplog):
    """401 for the caller's key, which is named; the server's text, which quotes it, goes nowhere."""
    server.keys = {"Bearer another"}
    deployed = begin()
    error = deployed.refused(401, deployed.body("Hi", **asked()))
    assert "payload.apiKey" in error["errors"]
    assert KEY not in json.dumps(error) + caplog.text


def test_the_operators_key(begin, server, caplog):
    """It is used where the caller sends none; refused, it is the operator's matter: 502, and the key nowhere."""
    server.keys = {"Bearer sk-operators-own"}
    server.script("Ok.")
    deployed = begin({"api_key": "sk-operators-own"})
    run = deployed.start("Hi", **asked(apiKey=None))
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Ok.")

    server.keys = set()
    error = deployed.refused(502, deployed.body("Hi", **asked(apiKey=None)))

    assert "tell the operator" in error["message"]
    assert "sk-operators-own" not in json.dumps(error) + caplog.text


def test_a_key_that_is_renewed(begin, server, tmp_path):
    """A key in a file is read at each step, and the thread and its assistant stay what they are."""
    file = tmp_path / "token"
    file.write_text("first\n")
    server.keys = {"Bearer first"}
    server.script("One.")
    server.script("Two.")
    deployed = begin({"api_key_file": str(file)})
    first = deployed.start("Hi", **asked(apiKey=None))
    deployed.events(first)
    file.write_text("second\n")
    server.keys = {"Bearer second"}

    second = deployed.start("On", thread_id=first["threadId"], **asked(apiKey=None))

    assert_events(deployed.events(second), "threadInfo delta+ end", text="Two.")
    assert [text for _, text in server.said()] == ["Hi", "One.", "On", "Two."]
    assert len(server.assistants) == 1
    file.unlink()
    deployed.refused(502, deployed.body("Hi", **asked(apiKey=None)))


def test_no_key_at_all(begin, server):
    """A server without keys is asked without one; one that wants a key leads to an answer that says where it goes."""
    server.needs_key = False
    server.script("Ok.")
    deployed = begin()
    run = deployed.start("Hi", **asked(apiKey=None))
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Ok.")
    assert not any("Authorization" in one.headers for one in server.asked)

    server.needs_key = True

    error = deployed.refused(400, deployed.body("Hi", **asked(apiKey=None)))
    assert "send payload.apiKey, or set api_key in [plugins.assistants]" in error["message"]


def test_azure(begin, server):
    """The key in a header of its own, the version of the API in every URL."""
    server.keys = {"azure-key"}
    server.query = {"api-version": "2025-05-01 preview&x"}
    server.script("Ok.")
    server.script("Ok.")
    deployed = begin({"key_header": "api-key", "query": {"api-version": "2025-05-01 preview&x"}})
    first = deployed.start("Hi", **asked(apiKey="azure-key"))
    deployed.events(first)
    second = deployed.start("Hi", thread_id=first["threadId"], **asked(apiKey="azure-key"))
    assert_events(deployed.events(second), "threadInfo delta+ end", text="Ok.")
    assert not any("Authorization" in one.headers for one in server.asked)


def test_a_limited_rate(begin, server):
    """429 is passed on, with the time to wait."""
    server.refuse("POST", "/threads", Refused(429, "slow down", Retry_After="17"))
    deployed = begin()
    answer = deployed.post("", deployed.body("Hi", **asked()))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "17")


def test_a_server_that_drops_a_run(begin, server):
    """Nobody knows what it did: 502, and the run is not asked for a second time."""
    server.refuse("POST", "/runs", "drop")
    deployed = begin()
    error = deployed.refused(502, deployed.body("Hi", **asked()))
    assert "cannot be reached" in error["message"]
    assert len(server.bodies("/runs")) == 1


def test_questions_are_repeated(begin, server):
    """What changes nothing is asked again when the server fails for a moment."""
    server.script("One.")
    server.script("So far ", Cut(), "and on.")
    deployed = begin()
    first = deployed.start("Hi", **asked())
    deployed.events(first)
    server.refuse("GET", "/messages", Refused(500, "sorry"))
    server.refuse("GET", "/messages", "drop")

    second = deployed.start("On", thread_id=first["threadId"], **asked())

    assert_events(deployed.events(second), "threadInfo delta+ end", text="So far and on.")


def test_nobody_there(deploy):
    """A server that does not listen: 502, without the address."""
    deployed = deploy(sections={"assistants": {"base_url": "http://127.0.0.1:9"}})
    error = deployed.refused(502, deployed.body("Hi", **asked()))
    assert "cannot be reached" in error["message"]
    assert "127.0.0.1" not in json.dumps(error)


def test_not_set_up(deploy):
    """Without a server the provider is there, and says what is missing."""
    deployed = deploy()
    error = deployed.refused(400, deployed.body("Hi", **asked()))
    assert "[plugins.assistants] has no base_url" in error["message"]


@pytest.mark.parametrize(
    ("why", "reason"),
    [("max_completion_tokens", "length"), ("max_prompt_tokens", "length"), ("content_filter", "content_filter")],
)
def test_incomplete(begin, server, why, reason):
    """A run that was limited ends with what it said, and the reason."""
    server.script("So far", End("incomplete", why))
    deployed = begin()
    run = deployed.start("Hi", max_completion_tokens=20, **asked())
    assert_events(deployed.events(run), "threadInfo delta+ end", text="So far", finish_reason=reason)
    assert server.bodies("/runs")[0]["max_completion_tokens"] == 20


@pytest.mark.parametrize(
    ("end", "code", "says_so"),
    [
        (("failed", None, "server_error", "it broke"), "server_error", "it broke"),
        (("failed", None, "rate_limit_exceeded", "too much"), "rate_limit_exceeded", "too much"),
        (("expired",), "provider_expired", "expired"),
        (("cancelled",), "provider_cancelled", "cancelled"),
    ],
)
def test_runs_that_fail(begin, server, end, code, says_so):
    """What came before is the page's; the run ends with the server's words, and the thread goes on."""
    server.script("So far", End(*end))
    server.script("Ok")
    deployed = begin()
    run = deployed.start("Hi", **asked())
    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far", finish_reason="error")
    error = error_of(deployed, run)
    assert error["code"] == code
    assert says_so in error["message"]
    again = deployed.start("Again", thread_id=run["threadId"], **asked())
    assert_events(deployed.events(again), "threadInfo delta+ end", text="Ok")


def test_an_error_event(begin, server):
    """The server's own failure ends the run; what it may still do is cancelled."""
    gate = Gate()
    server.script("So far", ErrorEvent("it broke"), gate)
    deployed = begin()
    run = deployed.start("Hi", **asked())
    assert_events(deployed.events(run), "threadInfo delta+ error end", text="So far")
    assert "it broke" in error_of(deployed, run)["message"]
    server.wait_until(lambda: server.run.status == "cancelled")


def test_an_error_event_at_once(begin, server):
    """Before anything was said the start itself is refused, or the run fails: never is it taken for an answer."""
    server.script(ErrorEvent("it broke"))
    deployed = begin()
    run = deployed.start("Hi", **asked())
    assert_events(deployed.events(run), "threadInfo error end")
    assert "it broke" in error_of(deployed, run)["message"]


def test_an_assistant_is_made_once_for_each_model(begin, server):
    """It has a model and nothing else; other processes and later starts use the same."""
    for _ in range(3):
        server.script("Ok.")
    deployed = begin()
    deployed.events(deployed.start("Hi", **asked()))
    deployed.restart()
    deployed.events(deployed.start("Hi", **asked()))
    deployed.events(deployed.start("Hi", **asked(model="gpt-other")))
    made = server.bodies("/assistants")
    assert [body["model"] for body in made] == ["gpt-test", "gpt-other"]
    assert all(set(body) == {"model", "name", "metadata"} for body in made)


def test_an_assistant_of_our_making_that_is_gone(begin, server):
    """It is made again, and the start succeeds."""
    server.script("Ok.")
    server.script("Ok.")
    deployed = begin()
    deployed.events(deployed.start("Hi", **asked()))
    server.assistants.clear()
    run = deployed.start("Hi", **asked())
    assert_events(deployed.events(run), "threadInfo delta+ end", text="Ok.")


def test_the_operators_assistants(begin, server):
    """One for all models, which are still the caller's choice; and some by name, with what they have themselves."""
    server.new_assistant("asst_mine", instructions="Be mine.")
    server.new_assistant("asst_support", model="gpt-support", instructions="Be helpful.")
    server.script("Ok.")
    server.script("Ok.")
    deployed = begin({"assistant_id": "asst_mine", "assistants": {"support": "asst_support"}})

    deployed.events(deployed.start("Hi", **asked()))
    mine = server.threads["thread_001"].runs[0].object
    deployed.events(deployed.start("Hi", **asked(model="support")))
    support = list(server.threads.values())[-1].runs[0].object

    assert (mine["assistant_id"], mine["model"], mine["instructions"]) == ("asst_mine", "gpt-test", "Be mine.")
    assert (support["model"], support["instructions"]) == ("gpt-support", "Be helpful.")
    assert server.bodies("/assistants") == []


def test_an_operators_assistant_that_is_gone(begin, server):
    """400 with the server's words: nothing is made in its place."""
    deployed = begin({"assistant_id": "asst_gone"})
    error = deployed.refused(400, deployed.body("Hi", **asked()))
    assert "No assistant found with id 'asst_gone'." in error["message"]
    assert server.threads == {}


def test_hosted_tools(begin, server):
    """Files are given to the thread, the tools to the run; other files change the thread."""
    server.script("Ok.")
    server.script("Ok.")
    deployed = begin()
    search = {"type": "file_search", "vector_store_ids": ["vs_1"], "max_num_results": 3}
    python = {"type": "code_interpreter"}
    files = {"code_interpreter": {"file_ids": ["file_1"]}}
    first = deployed.start("Hi", tools=[search, python], tool_resources=files, **asked())
    deployed.events(first)
    assert server.thread.resources == {
        "file_search": {"vector_store_ids": ["vs_1"]},
        "code_interpreter": {"file_ids": ["file_1"]},
    }
    assert server.run.object["tools"] == [
        {"type": "file_search", "file_search": {"max_num_results": 3}},
        {"type": "code_interpreter"},
    ]
    other = {"type": "file_search", "vector_store_ids": ["vs_2"]}
    second = deployed.start("Hi", thread_id=first["threadId"], tools=[other], **asked())
    deployed.events(second)
    assert server.thread.resources == {"file_search": {"vector_store_ids": ["vs_2"]}}


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"providerArgs": {"service_tier": "flex"}}, "payload.providerArgs.service_tier"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "no container"),
    ],
)
def test_what_has_no_equivalent(begin, server, payload, problem):
    """It is refused by name, before anything is made at the server."""
    deployed = begin()
    error = deployed.refused(400, deployed.body("Hi", **asked(**payload)))
    assert problem in error["message"]
    assert server.asked == []


def test_the_system_is_told_with_each_run(begin, server):
    """Threads of the server have no such role: what the system said goes with this run and those after it."""
    server.script("Ok.")
    server.script("Ok.")
    deployed = begin()
    messages = [{"role": "system", "content": "Speak German."}, {"role": "user", "content": "Hi"}]
    first = deployed.start("Hi", messages=messages, **asked())
    deployed.events(first)
    second = deployed.start("On", thread_id=first["threadId"], **asked())
    deployed.events(second)
    assert [body["additional_instructions"] for body in server.bodies("/runs")] == ["Speak German."] * 2
    assert [text for _, text in server.said()] == ["Hi", "Ok.", "On", "Ok."]


def test_images_and_files(begin, server):
    """What the server can fetch or has is sent on; what is sent along has no form in this API."""
    server.script("Ok.")
    deployed = begin()
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_file", "image_file": {"file_id": "file_1"}},
        {"type": "input_file", "file_id": "file_2"},
    ]
    messages = [{"role": "user", "content": content}]
    run = deployed.start("Hi", messages=messages, **asked())
    deployed.events(run)
    message = server.thread.messages[0]
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "image_file"]
    assert message["attachments"] == [{"file_id": "file_2", "tools": [{"type": "file_search"}]}]

    inline = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body = deployed.body("Hi", **asked(messages=[{"role": "user", "content": inline}]))
    assert "upload it" in deployed.refused(400, body)["message"]
