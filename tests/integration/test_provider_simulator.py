from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from openai.types import Model
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList
from openai.types.responses import Response, ResponseItemList

import bf_plugin.testing.provider
from bf_plugin.testing import Gate, ProviderSimulator
from bf_plugin.testing.provider import BrainRequest, call, error, failed, text

KEY = "sk-abcdefghijcd"


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as running:
        yield running


@pytest.fixture
def client(provider: ProviderSimulator) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=provider.base_url, api_key=KEY, max_retries=0, timeout=10) as made:
        yield made


@pytest.fixture
def session(provider: ProviderSimulator) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.headers["Authorization"] = f"Bearer {KEY}"
        yield made


def post(session: requests.Session, provider: ProviderSimulator, path: str, body: Any) -> requests.Response:
    return session.post(provider.base_url + path, json=body, timeout=10)


def refusal(session: requests.Session, provider: ProviderSimulator, **body: Any) -> tuple[int, str | None, str]:
    answer = post(session, provider, "/responses", {"model": "m", "input": "x", **body})
    details = answer.json()["error"]
    assert set(details) == {"message", "type", "param", "code"}
    return answer.status_code, details["code"], details["message"]


def test_a_stream_as_the_sdk_reads_it(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """The SDK reads events in order, numbered from 0, with the exact deltas of the script."""
    provider.script(text("Hel", "lo 😀"))
    events: list[Any] = list(client.responses.create(model="m", input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["Hel", "lo 😀"]
    assert events[-1].response.output_text == "Hello 😀"
    provider.assert_script_used()


def test_answers_have_the_shapes_of_the_sdk(provider: ProviderSimulator, session: requests.Session) -> None:
    """What is not streamed validates against the SDK's types as well."""
    made = post(session, provider, "/conversations", {"items": [{"role": "user", "content": "a"}], "metadata": {}})
    Conversation.model_validate(made.json(), strict=True)
    conversation = made.json()["id"]
    provider.script([text("so"), call("f", call_id="call_1")])
    created = post(session, provider, "/responses", {"model": "m", "input": "b", "conversation": conversation})
    Response.model_validate(created.json())
    response, base = f"{provider.base_url}/responses/{created.json()['id']}", f"{provider.base_url}/conversations"
    Response.model_validate(session.get(response).json())
    ResponseItemList.model_validate(session.get(f"{response}/input_items").json())
    items = session.get(f"{base}/{conversation}/items", params={"order": "asc"}).json()
    ConversationItemList.model_validate(items)
    assert [item["type"] for item in items["data"]] == ["message", "message", "message", "function_call"]
    ConversationDeletedResource.model_validate(session.delete(f"{base}/{conversation}").json(), strict=True)
    for model in session.get(f"{provider.base_url}/models").json()["data"]:
        Model.model_validate(model, strict=True)


def test_responses_are_chained(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """A response continues another one by its id, over the tool loop, and the brain sees everything."""
    provider.script([call("a", {"x": 1}, call_id="call_1"), call("b", call_id="call_2")])
    seen: list[BrainRequest] = []

    def brain(request: BrainRequest) -> str:
        seen.append(request)
        return "fine"

    provider.brain = brain
    first = client.responses.create(model="m", input="go")
    outputs: Any = [{"type": "function_call_output", "call_id": f"call_{n}", "output": "ok"} for n in (1, 2)]
    second = client.responses.create(model="m", input=outputs, previous_response_id=first.id)
    client.responses.create(model="m", input="thanks", previous_response_id=second.id)
    assert [item["type"] for item in seen[1].context] == [
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
        "message",
    ]
    assert [(made["name"], output["output"]) for made, output in seen[0].outputs] == [("a", "ok"), ("b", "ok")]
    assert seen[1].user_texts == ["go", "thanks"]


def test_chains_are_checked(provider: ProviderSimulator, session: requests.Session) -> None:
    """Unknown, unfinished and foreign responses and unpaired calls are refused in OpenAI's words."""
    provider.script(call("f", call_id="call_x"), failed())
    made = post(session, provider, "/responses", {"model": "m", "input": "x"}).json()["id"]
    broken = post(session, provider, "/responses", {"model": "m", "input": "x"}).json()["id"]
    output = {"type": "function_call_output", "call_id": "call_y", "output": "x"}
    unanswered = (400, None, "No tool output found for function call call_x.")
    unknown = (400, None, "No tool call found for function call output with call_id call_y.")
    assert refusal(session, provider, previous_response_id=made) == unanswered
    assert refusal(session, provider, previous_response_id=made, input=[output]) == unknown
    assert refusal(session, provider, previous_response_id="resp_none")[:2] == (400, "previous_response_not_found")
    assert refusal(session, provider, previous_response_id=broken)[:2] == (400, "previous_response_not_found")
    session.headers["Authorization"] = "Bearer another"
    assert refusal(session, provider, previous_response_id=made)[:2] == (400, "previous_response_not_found")


def test_conversations_keep_items(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """A conversation collects what completes in it, in order, page by page."""
    conversation = client.conversations.create(metadata={"a": "b"})
    for said in ("one", "two", "three"):
        provider.script(f"re: {said}")
        client.responses.create(model="m", input=said, conversation={"id": conversation.id})
    listed: Any = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [item.content[0].text for item in listed] == ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert len(provider.conversations[conversation.id].items) == 6
    item = client.conversations.items.retrieve(listed[0].id, conversation_id=conversation.id)
    assert item.id == listed[0].id
    client.conversations.items.delete(listed[0].id, conversation_id=conversation.id)
    assert len(provider.conversations[conversation.id].items) == 5
    assert client.conversations.update(conversation.id, metadata={"c": "d"}).metadata == {"c": "d"}
    assert client.conversations.retrieve(conversation.id).metadata == {"c": "d"}


def test_conversations_refuse(provider: ProviderSimulator, session: requests.Session) -> None:
    """More than 20 items at once, unknown conversations and unknown parameters are refused."""
    items = [{"role": "user", "content": "x"}] * 21
    for path in ("/conversations", "/conversations/{}/items"):
        made = post(session, provider, "/conversations", {}).json()["id"]
        answer = post(session, provider, path.format(made), {"items": items})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "array_above_max_length")
        assert post(session, provider, path.format(made), {"items": items[:20]}).status_code == 200
        assert post(session, provider, path.format(made), {"messages": []}).json()["error"]["param"] == "messages"
    assert refusal(session, provider, conversation="conv_none")[0] == 404
    assert session.get(f"{provider.base_url}/conversations/conv_none").status_code == 404


def test_a_conversation_is_locked_while_a_response_is_active(
    provider: ProviderSimulator, session: requests.Session, client: openai.OpenAI
) -> None:
    """A second active response is refused; the lock goes with the first one, whose items come only then."""
    conversation, gate = client.conversations.create(), Gate()
    provider.script(text("a", gate, "b"))
    made = client.responses.create(model="m", input="x", conversation=conversation.id, background=True)
    gate.wait_reached()
    assert refusal(session, provider, conversation=conversation.id)[:2] == (400, "conversation_locked")
    assert provider.conversations[conversation.id].items == []
    gate.release()
    provider.wait_until(lambda: provider.responses[made.id].over)
    assert len(provider.conversations[conversation.id].items) == 2
    client.responses.create(model="m", input="x", conversation=conversation.id)


def test_a_background_response_outlives_its_client(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """A background response goes on without a reader, is polled, and its stream is resumed after a cursor."""
    gate = Gate()
    provider.script(text("a", gate, "b", "c"))
    stream: Any = client.responses.create(model="m", input="x", background=True, stream=True)
    for event in stream:
        if event.type == "response.created":
            made = event.response.id
        if event.type == "response.output_text.delta":
            break
    stream.close()
    provider.wait_until(lambda: provider.open_streams == 0)
    assert client.responses.retrieve(made).status == "in_progress"
    resumed: Any = iter(client.responses.retrieve(made, stream=True, starting_after=event.sequence_number))
    gate.release()
    assert [next(resumed).delta, next(resumed).delta] == ["b", "c"]
    assert list(resumed)[-1].response.output_text == "abc"
    assert client.responses.retrieve(made).status == "completed"


def test_a_foreground_response_dies_with_its_client(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """A foreground response whose client goes away stops, commits nothing and is gone."""
    conversation, gate = client.conversations.create(), Gate()
    provider.script(text("a", gate, "b"))
    stream = client.responses.create(model="m", input="x", stream=True, conversation=conversation.id)
    next(iter(stream))
    gate.wait_reached()
    (record,) = provider.responses.values()
    stream.close()
    provider.wait_until(lambda: record.over)
    assert (record.status, record.text) == ("cancelled", "a")
    assert provider.conversations[conversation.id].items == []
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(record.id)
    client.responses.create(model="m", input="x", conversation=conversation.id)


def test_cancel(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Cancelling ends a background response, loses its output, and may be repeated."""
    gate = Gate()
    provider.script(text("a", gate, "b"))
    events: list[Any] = []
    stream = client.responses.create(model="m", input="x", background=True, stream=True)
    reader = threading.Thread(target=lambda: events.extend(stream))
    reader.start()
    gate.wait_reached()
    (record,) = provider.responses.values()
    cancelled = client.responses.cancel(record.id)
    reader.join(5)
    assert (cancelled.status, cancelled.output, record.text) == ("cancelled", [], "a")
    assert (events[-1].type, events[-1].response.status) == ("response.failed", "cancelled")
    assert client.responses.cancel(record.id).status == "cancelled"


def test_what_cannot_be_cancelled(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Foreground and finished responses are refused in OpenAI's words, unknown ones with 404."""
    made = client.responses.create(model="m", input="x")
    with pytest.raises(openai.BadRequestError, match=r"Cannot cancel a synchronous response\."):
        client.responses.cancel(made.id)
    made = client.responses.create(model="m", input="x", background=True)
    provider.wait_until(lambda: provider.responses[made.id].over)
    with pytest.raises(openai.BadRequestError, match="Cannot cancel a completed response"):
        client.responses.cancel(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_none")


def test_what_cannot_be_resumed(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Only background responses created as streams can be streamed again."""
    for options in ({"background": True}, {}):
        made = client.responses.create(model="m", input="x", **options)  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError, match="background"):
            client.responses.retrieve(made.id, stream=True)


def test_what_is_not_stored(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Responses created with store off, and deleted ones, cannot be read or continued."""
    unstored = client.responses.create(model="m", input="x", store=False)
    deleted = client.responses.create(model="m", input="x")
    client.responses.delete(deleted.id)
    for made in (unstored, deleted):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="m", input="x", previous_response_id=made.id)


@pytest.mark.parametrize("path", ["/assistants", "/threads", "/threads/runs", "/chat/completions", "/nothing"])
def test_what_is_gone(provider: ProviderSimulator, session: requests.Session, path: str) -> None:
    """The Assistants API and everything else answers 404 in OpenAI's shape."""
    answer = post(session, provider, path, {})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"Invalid URL (POST /v1{path})")


def test_keys_and_models() -> None:
    """Keys and models can be restricted; a wrong key is quoted in part, as the provider does."""
    with ProviderSimulator(keys=["sk-right"], models=["good"]) as provider, requests.Session() as session:
        no_key = post(session, provider, "/responses", {})
        assert (no_key.status_code, no_key.json()["error"]["code"]) == (401, None)
        session.headers["Authorization"] = f"Bearer {KEY}"
        assert refusal(session, provider)[:2] == (401, "invalid_api_key")
        assert "sk-ab***cd." in refusal(session, provider)[2]
        session.headers["Authorization"] = "Bearer sk-right"
        assert refusal(session, provider)[:2] == (400, "model_not_found")
        assert post(session, provider, "/responses", {"model": "good", "input": "x"}).status_code == 200


def test_broken_json(provider: ProviderSimulator, session: requests.Session) -> None:
    """A body that is not JSON, or not an object, is refused."""
    for body in (b"{", b"[1]"):
        assert session.post(f"{provider.base_url}/responses", data=body).status_code == 400


def test_requests_are_recorded_without_keys(provider: ProviderSimulator, session: requests.Session) -> None:
    """A recorded request has everything but the key in what it prints."""
    post(session, provider, "/responses?x=1", {"model": "m", "input": "hi"})
    (request,) = provider.requests
    assert (request.method, request.path, request.operation) == ("POST", "/v1/responses", "create")
    assert (request.query, request.body["input"], request.key) == ({"x": "1"}, "hi", KEY)
    assert request.headers["authorization"] == "[redacted]"
    assert KEY not in repr(request)
    assert request.key_digest


def test_an_unused_script_is_reported(provider: ProviderSimulator) -> None:
    """A scripted answer that nobody asked for fails the test."""
    provider.script("never")
    with pytest.raises(AssertionError, match="never"):
        provider.assert_script_used()
    provider.reset()
    provider.assert_script_used()


def test_an_error_without_a_stream(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Where no stream can carry the error event, the answer is an HTTP error."""
    provider.script(error("boom"))
    with pytest.raises(openai.InternalServerError, match="boom"):
        client.responses.create(model="m", input="x")


def test_a_broken_brain_is_not_swallowed() -> None:
    """What a brain of the test raises comes out of the simulator."""

    def brain(request: BrainRequest) -> str:
        raise LookupError(request.user_texts[0])

    def use() -> None:
        with ProviderSimulator(brain=brain) as provider, requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {KEY}"
            assert refusal(session, provider)[0] == 500

    with pytest.raises(LookupError, match="x"):
        use()


def test_it_comes_back_with_its_port_and_memory(provider: ProviderSimulator, client: openai.OpenAI) -> None:
    """Stopped and started again, it listens where it did and knows what it knew."""
    made, base_url = client.responses.create(model="m", input="x"), provider.base_url
    provider.stop()
    with pytest.raises(openai.APIConnectionError):
        client.responses.retrieve(made.id)
    provider.start()
    assert provider.base_url == base_url
    assert client.responses.retrieve(made.id).id == made.id


def test_memory_can_be_bounded() -> None:
    """A long-lived simulator forgets its oldest requests and responses."""
    with ProviderSimulator(remember=3) as provider, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {KEY}"
        for _ in range(5):
            post(session, provider, "/responses", {"model": "m", "input": "x"})
        assert (len(provider.requests), len(provider.responses)) == (3, 3)


def test_as_a_process() -> None:
    """`python -m` prints the base URL first, answers, and ends on SIGTERM."""
    command = [sys.executable, "-m", "bf_plugin.testing.provider", "--delay", "0", "--key", KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as client:
                assert client.responses.create(model="m", input="count to 3").output_text.startswith("1, 2, 3")
        finally:
            process.terminate()
        assert process.wait(10) == 0


def test_the_examples_of_the_documentation(provider: ProviderSimulator, session: requests.Session) -> None:
    """The examples in the package's documentation run, and their scripts are what is answered."""
    documentation = bf_plugin.testing.provider.__doc__ or ""
    names: dict[str, Any] = {"provider": provider}
    blocks = re.findall(r"```python\n(.*?)```", documentation, re.DOTALL)
    for block in blocks:
        exec(block, {**names, **vars(bf_plugin.testing.provider), "provider": provider})
    assert len(blocks) == 4
    provider.clear_faults()
    first = post(session, provider, "/responses", {"model": "m", "input": "x"}).json()
    assert first["output"][0]["content"][0]["text"] == "one delta"


def test_many_events_are_cheap(provider: ProviderSimulator, session: requests.Session) -> None:
    """A long stream without a pace is complete and does not take long, so that it is never what is measured."""
    provider.script(text(*["word "] * 20_000))
    answer = post(session, provider, "/responses", {"model": "m", "input": "x", "stream": True})
    frames = answer.content.split(b"\n\n")
    last = json.loads(frames[-2].split(b"data: ", 1)[1])
    assert len(frames) == 20_000 + 9
    assert last["response"]["output"][0]["content"][0]["text"] == "word " * 20_000
    assert answer.elapsed.total_seconds() < 10
