"""The parts by themselves: settings, bytes to events, text, cancelling, and the server that the tests are made with."""

from __future__ import annotations

import asyncio
import json
import warnings

import openai
import pytest
from bf_hook_assistants.answer import Answer
from bf_hook_assistants.engine import AssistantsEngine
from bf_hook_assistants.problems import is_busy, refusal
from bf_hook_assistants.run import waits
from bf_hook_assistants.section import read_section
from bf_hook_assistants.sse import BrokenStreamError, Decoder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from assistants_support.script import Call, Refused
from assistants_support.server import KEY
from bf_plugin import ConfigurationError, ProviderError, Usage
from bf_plugin.engines.port import Access, Cursor, StepDone, StepRequest, Text
from bf_plugin.items import text_message
from bf_plugin.testing import Gate, MemoryStore

names = st.sampled_from(["thread.message.delta", "thread.run.completed", "error", ""])
frames = st.lists(st.tuples(names, st.dictionaries(st.just("a"), st.integers() | st.text(max_size=8))), max_size=4)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(events, end, *, ascii_only):
    """Return events as a stream that ends its lines so, with comments between them."""
    blocks = [
        f": a comment\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=ascii_only)}\n\n" for name, data in events
    ]
    text = "".join(blocks) + "event: done\ndata: [DONE]\n\n"
    return text.replace("\n", end).encode("utf-8", "surrogatepass")


@quick
@given(events=frames, end=st.sampled_from(["\n", "\r\n", "\r"]), ascii_only=st.booleans(), cuts=st.data())
def test_a_stream_may_be_cut_anywhere(events, end, ascii_only, cuts):
    """Whatever the line ends and wherever the reads end, the events are the same."""
    sent = written(events, end, ascii_only=ascii_only)
    places = sorted(cuts.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    decoder = Decoder()
    pieces = [sent[start:stop] for start, stop in zip([0, *places], [*places, len(sent)], strict=True)]
    read = [frame for piece in pieces for frame in decoder.feed(piece)]
    read += decoder.feed(b"\n")  # a line end that is only \r is over when the next byte comes
    assert read == events


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_place_of_a_stream(end):
    """Cut at any one place, between the two bytes of a line end too, and into single bytes."""
    events = [("thread.message.delta", {"a": "wörld \u2028"}), ("thread.run.completed", {"a": 1})]
    sent = written(events, end, ascii_only=False)
    for place in range(len(sent)):
        decoder = Decoder()
        assert [*decoder.feed(sent[:place]), *decoder.feed(sent[place:] + b"\n")] == events
    decoder = Decoder()
    single = [frame for byte in (*sent, 10) for frame in decoder.feed(bytes([byte]))]
    assert single == events


def test_what_is_no_json():
    """It is a failure of the connection, not an event."""
    with pytest.raises(BrokenStreamError):
        Decoder().feed(b"event: thread.message.delta\ndata: {\n\n")


texts = st.text(st.characters(codec="utf-8") | st.characters(min_codepoint=0x1F600, max_codepoint=0x1F64F), max_size=20)


def escaped(text):
    """Return the text as halves of UTF-16, as JSON escapes it."""
    units = text.encode("utf-16-le")
    return [units[place : place + 2].decode("utf-16-le", "surrogatepass") for place in range(0, len(units), 2)]


@quick
@given(text=texts, cuts=st.data())
@example(text="\U0001f600", cuts=None)
def test_text_may_be_cut_anywhere(text, cuts):
    """Deltas, and the whole message behind them, give every character once, emoji in one piece."""
    halves = escaped(text)
    places = [1] if cuts is None else sorted(cuts.draw(st.lists(st.integers(0, len(halves)), max_size=5)))
    bounds = zip([0, *places], [*places, len(halves)], strict=True)
    answer, got = Answer(), []
    for start, stop in bounds:
        content = [{"index": 0, "type": "text", "text": {"value": "".join(halves[start:stop])}}]
        got += answer.delta({"id": "msg_1", "delta": {"content": content}})
    content = [{"type": "text", "text": {"value": text, "annotations": []}}]
    got += answer.message({"id": "msg_1", "content": content})
    assert "".join(one.text for one in got) == text
    assert all(one.text and one.text.encode() for one in got)
    assert answer.rest() == []
    assert [part["text"]["value"] for part in answer.content] == ([text] if text else [])


@quick
@given(text=texts, seen=st.integers(0, 20))
def test_a_tail_is_what_was_not_seen(text, seen):
    """Whatever an earlier reader has used, a polled message adds the rest, and a contradiction is a loss."""
    answer = Answer({(0, 0): text[:seen]})
    content = [{"type": "text", "text": {"value": text, "annotations": []}}]
    got = answer.message({"id": "msg_1", "content": content}, polled=True)
    assert text[:seen] + "".join(one.text for one in got) == text
    with pytest.raises(ProviderError, match="lost"):
        Answer({(0, 0): f"{text}x"}).message({"id": "msg_1", "content": content}, polled=True)


def test_a_message_that_contradicts_its_deltas():
    """The page has the deltas, so they count; annotations would point into another text and are left out."""
    answer = Answer()
    answer.delta({"id": "msg_1", "delta": {"content": [{"index": 0, "type": "text", "text": {"value": "said"}}]}})
    whole = {"value": "meant", "annotations": [{"type": "file_path"}]}
    assert answer.message({"id": "msg_1", "content": [{"type": "text", "text": whole}]}) == []
    assert answer.content == [{"type": "text", "text": {"value": "said"}}]


def test_refusals_and_images():
    """A refusal is shown as text; an image, which has no event, is not; a bare text counts, too."""
    answer = Answer()
    content = [
        {"index": 0, "type": "image_file", "image_file": {"file_id": "file_1"}},
        {"index": 1, "type": "refusal", "refusal": "No."},
        {"index": 2, "type": "text", "text": " Bare."},
    ]
    assert [one.text for one in answer.delta({"id": "msg_1", "delta": {"content": content}})] == ["No.", " Bare."]


def test_answered_calls_are_not_asked_for_twice():
    """A run that was handed its outputs may still be seen waiting for them: it goes on."""
    asked = {"tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    run = {"status": "requires_action", "required_action": {"submit_tool_outputs": asked}}
    assert waits(run, ["call_a", "call_b"])
    assert not waits(run, [])
    assert not waits({"status": "requires_action", "required_action": None}, ["call_a"])


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"base_url": "server"}, "base_url: must be a URL"),
        ({"base_url": "https://u:p@server"}, "base_url: must hold no user"),
        ({"base_url": "https://server?api-version=1"}, "base_url: must end with its path"),
        ({"api_key": "sk-\N{SNOWMAN}"}, "api_key: must be printable ASCII"),
        ({"api_key": "a", "api_key_file": "b"}, "exclude each other"),
        ({"api_key_file": "/nowhere"}, "api_key_file: cannot be read: No such file"),
        ({"key_header": "a b"}, "key_header: "),
        ({"poll_seconds": 0}, "poll_seconds: "),
        ({"assistants": {"a": ""}}, "assistants.a: "),
        ({"urll": 1}, "urll: "),
    ],
)
def test_settings_that_cannot_work(section, problem):
    """The field is named, its value is not."""
    with pytest.raises(ConfigurationError) as caught:
        read_section("assistants", section)
    assert problem in str(caught.value)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "busy"),
    [
        ("Can't add messages to thread_a while a run run_b is active.", True),
        ("Thread thread_a already has an active run run_b.", True),
        ("Message content must be non-empty.", False),
        ("Cannot cancel run with status 'completed'.", False),
    ],
)
def test_a_busy_thread_is_known_by_its_words(message, busy):
    """The server has no code for it."""
    assert is_busy(refusal(400, {"error": {"message": message, "code": None}}, {}, KEY)) is busy


def test_errors_in_other_forms():
    """Servers other than OpenAI say it otherwise; a retry-after that is a date says nothing."""
    assert refusal(500, {"detail": "sorry"}, {}, "").message == "sorry"
    assert refusal(500, {"error": "sorry"}, {}, "").message == "sorry"
    assert refusal(502, None, {}, "").message == "the provider answered 502"
    assert refusal(400, {"error": {"message": "bad key sk-ab***yz"}}, {}, "").message == "bad key [key]"
    assert refusal(429, None, {"retry-after-ms": "1500"}, "").retry_after == 1.5
    assert refusal(429, None, {"retry-after": "Fri, 27 Nov 2026 00:00:00 GMT"}, "").retry_after is None


# the engine by itself --------------------------------------------------------------------------------------------


ACCESS = Access(api_key=KEY)


def a_step(**more):
    async def history():
        return ()

    given = {"new": [text_message("user", "Hi")], "state": None, "number": 1, **more}
    return StepRequest(
        run_id="run", model="gpt-test", instructions=None, tools=(), options={}, metadata={}, history=history, **given
    )


@pytest.fixture
def on_loop(server):
    """Return a function that runs a coroutine function with an engine, and closes that."""

    def run(work, **section):
        settings = {"base_url": server.url, "poll_seconds": 0.01, **section}
        engine = AssistantsEngine(read_section("assistants", settings), store=MemoryStore())

        async def main():
            try:
                return await work(engine)
            finally:
                await engine.aclose()

        return asyncio.run(main())

    return run


async def read(stream):
    events = []
    await stream.read(events.extend)
    await stream.aclose()
    return events


def test_a_stream_that_is_held(on_loop, server):
    """What comes meanwhile is not read until it goes on; then all of it is."""
    second, third = Gate(), Gate()
    server.script("One ", second, "two ", third, "three.")

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        events, heard = [], asyncio.Event()
        reading = asyncio.create_task(stream.read(lambda new: (events.extend(new), heard.set() if new else None)))
        await asyncio.wait_for(heard.wait(), 10)
        stream.hold(True)
        second.release()  # which a read may bring that was under way when it was held
        await asyncio.sleep(0.3)
        third.release()
        await asyncio.sleep(0.3)
        before = len(events)
        stream.hold(False)
        await asyncio.wait_for(reading, 10)
        await stream.aclose()
        return before, events

    before, events = on_loop(work)
    assert before <= 2
    assert "".join(event.text for event in events if isinstance(event, Text)) == "One two three."
    assert isinstance(events[-1], StepDone)


def test_cancelling_what_is_over(on_loop, server):
    """A completed run cannot be cancelled, and tells its usage; one that is gone tells nothing."""
    server.script("Ok.")

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        await read(stream)
        usage = await engine.cancel(stream.handle, ACCESS)
        server.threads.clear()
        return usage, await engine.cancel(stream.handle, ACCESS)

    usage, none = on_loop(work)
    assert usage == Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11)
    assert none is None
    assert any(path.endswith("/cancel") for path in server.paths("POST"))


def test_cancelling_tells_the_usage(on_loop, server):
    """`cancelling` is waited for: only then the usage is known. Twice is once."""
    server.hold_cancelled = Gate()
    server.script("So far ", Gate())

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        asked = asyncio.gather(*(engine.cancel(stream.handle, ACCESS) for _ in range(2)))
        await asyncio.to_thread(server.wait_until, lambda: len(server.paths("GET")) >= 2)
        server.hold_cancelled.release()
        usages = await asked
        await stream.aclose()
        return usages

    usage = Usage(prompt_tokens=10, completion_tokens=1, total_tokens=11)
    assert on_loop(work) == [usage, usage]
    assert server.run.status == "cancelled"


def test_resuming_what_is_over(on_loop, server):
    """From the beginning, from the middle and from the end: text behind the cursor, then the same end."""
    server.script("Hello, ", "world.")

    async def work(engine):
        first = await engine.start(a_step(), ACCESS)
        end = (await read(first))[-1]
        for known in ("", "Hello, ", "Hello, world."):
            cursor = Cursor(sequence=-1, texts={(0, 0): known} if known else {})
            *texts, again = await read(await engine.resume(first.handle, cursor, ACCESS))
            assert known + "".join(text.text for text in texts if isinstance(text, Text)) == "Hello, world."
            assert isinstance(again, StepDone)
            assert again == end

    on_loop(work)


def test_another_server(on_loop, server):
    """State of another server is of no use here: everything is brought along."""
    server.script("One.")
    server.script("Two.")

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        done = (await read(stream))[-1]
        state = {**done.state, "server": "https://elsewhere.example"}
        await read(await engine.start(a_step(state=state), ACCESS))

    on_loop(work)
    assert len(server.threads) == 2


@pytest.mark.parametrize("key", ["sk-a\r\nX: y", "sk-\x00"])
def test_a_key_that_no_header_can_hold(on_loop, server, key):
    """It is refused as any other wrong key, is not sent in pieces, and is not in the error."""

    async def work(engine):
        await engine.start(a_step(), Access(api_key=key))

    with pytest.raises(ProviderError) as caught:
        on_loop(work)
    assert caught.value.status == 401
    assert "sk-a" not in str(caught.value)
    assert server.asked == []


def test_forgetting(on_loop, server):
    """Threads that are gone count as deleted; a server that fails keeps something, and says so."""
    server.script("One.")

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        done = (await read(stream))[-1]
        server.refuse("DELETE", stream.handle["thread"], Refused(400, "not now"))
        names = [stream.handle, done.state]
        return [await engine.forget(names, ACCESS) for _ in range(3)]

    assert on_loop(work) == [False, True, True]
    assert server.threads == {}


def test_what_functions_cannot_give(on_loop, server):
    """A run that waits for something else, such as an approval, fails with a code of its own."""
    server.streams = False
    gate = Gate()
    server.script(gate, Call("call_a", "weather", {}))

    async def work(engine):
        stream = await engine.start(a_step(), ACCESS)
        gate.release()
        await asyncio.to_thread(server.wait_until, lambda: server.run.status == "requires_action")
        server.run.object["required_action"] = {"type": "submit_tool_approval"}
        await read(stream)

    with pytest.raises(ProviderError) as caught:
        on_loop(work)
    assert caught.value.code == "provider_unsupported"


# the server -------------------------------------------------------------------------------------------------------


def test_the_server_speaks_as_the_sdk_reads(server):
    """OpenAI's own client drives it through a run with a tool, in streams, and reads what it refuses."""
    warnings.simplefilter("ignore", DeprecationWarning)
    server.script("Let me see. ", Call("call_a", "weather", {"place": "Berlin"}))
    server.script("Fine.")
    with openai.OpenAI(api_key=KEY, base_url=server.url, max_retries=0) as client:
        assistant = client.beta.assistants.create(model="gpt-test")
        thread = client.beta.threads.create()
        client.beta.threads.messages.create(thread.id, role="user", content="How is it?")
        with client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id, stream=True) as stream:
            first = list(stream)
        assert [event.event for event in first][-1] == "thread.run.requires_action"
        run = first[-1].data
        with pytest.raises(openai.BadRequestError, match="Can't add messages to"):
            client.beta.threads.messages.create(thread.id, role="user", content="And?")
        with pytest.raises(openai.BadRequestError, match=r"Expected tool outputs for call_ids \['call_a'\], got \[\]"):
            client.beta.threads.runs.submit_tool_outputs(run.id, thread_id=thread.id, tool_outputs=[])
        with client.beta.threads.runs.submit_tool_outputs(
            run.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": "call_a", "output": "fine"}], stream=True
        ) as stream:
            second = list(stream)
        assert second[-1].data.usage.total_tokens == 22
        assert [message.content[0].text.value for message in client.beta.threads.messages.list(thread.id)] == [
            "Fine.",
            "Let me see. ",
            "How is it?",
        ]
        with pytest.raises(openai.BadRequestError, match="Cannot cancel run with status 'completed'"):
            client.beta.threads.runs.cancel(run.id, thread_id=thread.id)
