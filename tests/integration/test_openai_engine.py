"""The OpenAI engine against the provider simulator, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.engines.openai import OpenAIEngine
from bf_plugin.engines.openai.clients import Clients
from bf_plugin.engines.openai.patience import Patience
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.repair import UNKNOWN_RESULT
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.openai.transcript import LOST, Transcript
from bf_plugin.engines.port import Access, Event, State, StepDone, StepRequest, Text
from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionTool, Item, text_message
from bf_plugin.testing.provider import (
    BrainRequest,
    Gate,
    ProviderSimulator,
    call,
    error,
    failed,
    incomplete,
    reasoning,
    refusal,
    reply,
    text,
    words,
)

KEY = "sk-proj-0123456789abcdef"
TOOL: FunctionTool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
SENTENCE = "The quick brown fox jumps over the lazy dog, twice. 😀 Grüße!"
MODES = ["responses", "conversation", "local"]


@pytest.fixture
def provider() -> Iterator[ProviderSimulator]:
    with ProviderSimulator() as simulator:
        yield simulator


@dataclass
class Talk:
    """Plays the driver for one thread: history, what the state covers, and the next step."""

    engine: OpenAIEngine
    access: Access
    items: list[Item] = field(default_factory=list)
    covered: int = 0
    state: State | None = None
    began_with: State | None = None
    stream: ResponseStream | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    number: int = 1

    async def start(self, *new: Item) -> ResponseStream:
        self.items += new
        history = list(self.items[: self.covered])

        async def read_history() -> Sequence[Item]:
            return history

        self.began_with = self.state
        request = StepRequest(
            run_id="run_1",
            number=self.number,
            model="gpt-6-astra",
            instructions="Be brief.",
            tools=[TOOL],
            options=self.options,
            metadata={},
            new=list(self.items[self.covered :]),
            state=self.state,
            history=read_history,
        )
        self.stream = await self.engine.start(request, self.access)
        return self.stream

    async def events(self) -> list[Event]:
        assert self.stream is not None
        events: list[Event] = []
        await self.stream.read(events.extend)
        return events

    async def broken(self) -> tuple[str, ProviderError]:
        """Read a stream that fails: what was said before, and how it failed."""
        assert self.stream is not None
        events: list[Event] = []
        try:
            await self.stream.read(events.extend)
        except ProviderError as problem:
            await self.stream.aclose()
            return spoken(events), problem
        raise AssertionError("the stream did not fail")

    async def step(self, *new: Item) -> tuple[str, StepDone]:
        await self.start(*new)
        assert self.stream is not None
        events = await self.events()
        await self.stream.aclose()
        done = events[-1]
        assert isinstance(done, StepDone)
        self.state = done.state
        self.items += done.items
        self.covered = len(self.items)
        return spoken(events), done

    async def say(self, sentence: str) -> str:
        return (await self.step(text_message("user", sentence)))[0]

    async def cut(self, *seen: Item, cancel: bool = True) -> None:
        """Stop in mid-step; `seen` is what the driver keeps of the step."""
        assert self.stream is not None
        await self.stream.aclose()
        if cancel:
            await self.engine.cancel(self.stream.handle, self.access)
        self.state = self.engine.cut(self.began_with, self.stream.handle)
        self.items += seen


class Sleeps:
    """Stands in for asyncio.sleep: notes what it is asked for, and does something instead of waiting."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.instead: Callable[[], Any] = lambda: None

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.instead()
        await asyncio.sleep(0.005)


async def first(stream: ResponseStream) -> None:
    """Read a stream until it says something, then no further."""
    said = asyncio.Event()
    reading = asyncio.ensure_future(stream.read(lambda events: said.set()))
    await asyncio.wait_for(said.wait(), 10)
    reading.cancel()


def output_of(call_id: str, result: str = "found") -> Item:
    return {"type": "function_output", "call_id": call_id, "output": result}


def spoken(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def run(
    provider: ProviderSimulator,
    play: Callable[[Talk], Coroutine[Any, Any, None]],
    *,
    key: str = KEY,
    patience: Patience | None = None,
    **options: Any,
) -> None:
    async def main() -> None:
        engine = OpenAIEngine(patience=patience or Patience(sleep=Sleeps()), **options)
        try:
            await play(Talk(engine, Access(api_key=key, base_url=provider.base_url, request_id="req_mine")))
        finally:
            await engine.aclose()

    asyncio.run(main())
    provider.wait_until(lambda: provider.open_streams == 0)


def operations(provider: ProviderSimulator) -> list[str | None]:
    return [request.operation for request in provider.requests]


def bodies(provider: ProviderSimulator) -> list[dict[str, Any]]:
    return [request.body for request in provider.requests if request.operation == "create"]


async def fails(awaitable: Awaitable[Any]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await awaitable
    return caught.value


# --- conversations ---


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_a_conversation_with_tools(provider: ProviderSimulator, mode: str) -> None:
    """Two turns with parallel calls in between; the model sees everything, each mode in its own way."""
    seen: list[list[str]] = []

    def brain(request: BrainRequest) -> str:
        seen.append(request.user_texts)
        return "ok"

    provider.script("Hello", [call("look", {"at": 1}), call("look", {"at": 2})], words(SENTENCE))
    provider.brain = brain

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == "Hello"
        _, done = await talk.step(text_message("user", "two"))
        assert [made["arguments"] for made in done.calls] == ['{"at": 1}', '{"at": 2}']
        assert (
            (end := await talk.step(*(output_of(made["call_id"]) for made in done.calls)))[0],
            end[1].finish_reason,
        ) == (SENTENCE, "stop")
        assert await talk.say("three") == "ok"

    run(provider, play, state_mode=mode)

    assert seen == [["one", "two", "three"]]
    conversations = {"conversation": 1}.get(mode, 0)
    assert conversations == len(provider.conversations)
    assert [mode != "local"] * 4 == [body["store"] for body in bodies(provider)]
    assert [None if mode == "local" else True] * 4 == [body.get("background") for body in bodies(provider)]
    assert {"req_mine"} == {request.headers["x-client-request-id"] for request in provider.requests}


def test_what_each_mode_sends(provider: ProviderSimulator) -> None:
    """Only the new items where the provider keeps the rest; instructions and tools each time; no obfuscation."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.say("two")

    run(provider, play)

    first, second = bodies(provider)
    assert {
        "model": "gpt-6-astra",
        "instructions": "Be brief.",
        "tools": [{**TOOL, "strict": False}],
        "stream": True,
        "store": True,
        "background": True,
        "stream_options": {"include_obfuscation": False},
        "previous_response_id": next(iter(provider.responses)),
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]}],
    } == second
    assert "previous_response_id" not in first


def test_pictures_files_and_a_schema_pass_the_provider_s_checks(provider: ProviderSimulator) -> None:
    """What is mapped is what the provider takes."""
    provider.script("{}")

    async def play(talk: Talk) -> None:
        talk.options = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "reasoning_effort": "low",
            "provider_args": {"truncation": "auto", "text": {"verbosity": "low"}},
        }
        await talk.step(
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "url": "https://example.com/a.png"},
                    {"type": "file", "file_id": "file_1"},
                    {"type": "file", "data": "QQ==", "filename": "a.txt"},
                ],
            }
        )

    run(provider, play)
    provider.assert_script_used()


def test_refusals_annotations_and_usage(provider: ProviderSimulator) -> None:
    """Refusals stream as text; annotations and tokens come with the end."""
    citation = {"type": "url_citation", "url": "https://x", "title": "t", "start_index": 0, "end_index": 2}
    provider.script(
        reply(reasoning("hm"), refusal("I ", "cannot."), usage=(30, 12)), text("As ", "said", annotations=[citation])
    )

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert (
            said,
            done.usage.prompt_tokens,
            done.usage.completion_tokens,
            done.usage.total_tokens,
        ) == ("I cannot.", 30, 12, 42)
        _, done = await talk.step(text_message("user", "two"))
        [content] = done.content
        assert content["text"]["value"] == "As said"
        assert [annotation["url"] for annotation in content["text"]["annotations"]] == ["https://x"]

    run(provider, play)


def test_the_token_limit(provider: ProviderSimulator) -> None:
    """A response cut at its limit ends with `length`, one that was filtered with `content_filter`."""
    provider.script(reply("Hel", incomplete()), reply("x", incomplete("content_filter")))

    async def play(talk: Talk) -> None:
        reasons = [(await talk.step(text_message("user", "go")))[1].finish_reason for _ in range(2)]
        assert reasons == ["length", "content_filter"]

    run(provider, play)


# --- what servers refuse ---


@pytest.mark.parametrize(
    ("fault", "arguments", "missing"),
    [
        ("refuse_parameter", {"param": "background"}, "background"),
        ("refuse_parameter", {"param": "background", "named": False, "code": None}, "background"),
        ("refuse_parameter", {"param": "stream_options"}, "stream_options"),
        ("refuse_background_stream", {}, "background"),
    ],
)
def test_a_refused_parameter_is_dropped_and_remembered(
    provider: ProviderSimulator, fault: str, arguments: dict[str, Any], missing: str
) -> None:
    """One more request the first time, none after that."""
    provider.fault(fault, **arguments)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.say("two")

    run(provider, play)

    assert [missing in body for body in bodies(provider)] == [True, False, False]


def test_both_parameters_refused(provider: ProviderSimulator) -> None:
    """Once per parameter."""
    provider.fault("refuse_parameter", param="background")
    provider.fault("refuse_parameter", param="stream_options")

    async def play(talk: Talk) -> None:
        await talk.say("one")

    run(provider, play)
    assert len(bodies(provider)) == 3


def test_background_as_set(provider: ProviderSimulator) -> None:
    """Off never asks; on shows the refusal."""

    async def play(talk: Talk) -> None:
        await talk.say("one")

    run(provider, play, background="off")
    assert ["background" in body for body in bodies(provider)] == [False]

    provider.fault("refuse_parameter", param="background")

    async def refused(talk: Talk) -> None:
        assert (await fails(talk.say("one"))).status == 400

    run(provider, refused, background="on")


@pytest.mark.parametrize(
    ("fault", "arguments", "status", "code"),
    [
        ("status", {"status": 429, "retry_after": 7}, 429, "rate_limit_exceeded"),
        ("status", {"status": 500}, 500, None),
        ("status", {"status": 503}, 503, None),
        ("status", {"status": 404, "code": "model_not_found"}, 404, "model_not_found"),
        ("detail_error", {"status": 400, "detail": "No such thing"}, 400, None),
        ("drop", {}, None, "provider_unreachable"),
        ("hang", {}, None, "provider_timeout"),
    ],
)
def test_a_refused_start(
    provider: ProviderSimulator, fault: str, arguments: dict[str, Any], status: int | None, code: str | None
) -> None:
    """Told as it is, and never asked twice: the provider may have begun."""
    provider.fault(fault, **arguments)

    async def play(talk: Talk) -> None:
        problem = await fails(talk.say("one"))
        assert status == problem.status
        assert problem.code in (code, "provider_timeout" if status is None else code)
        assert (7.0 if status == 429 else None) == problem.retry_after

    run(provider, play, patience=Patience(silence=0.3))
    assert operations(provider) == ["create"]


def test_a_wrong_key_is_in_no_error_and_no_traceback() -> None:
    """The provider quotes the key; nothing of it gets through."""
    with ProviderSimulator(keys=["sk-another"]) as provider:

        async def play(talk: Talk) -> None:
            problem = await fails(talk.say("one"))
            shown = "".join(traceback.format_exception(type(problem), problem, problem.__traceback__))
            assert problem.status == 401
            assert KEY not in shown
            assert KEY[:5] not in problem.message
            assert problem.__context__ is None

        run(provider, play)


def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by most clients: a host that `no_proxy` names is reached without it."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error":{"message":"the proxy says no"}}'
        head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        for unproxied, expected in (("", "the proxy says no"), ("provider.test", "cannot be reached")):
            monkeypatch.setenv("no_proxy", unproxied)
            engine = OpenAIEngine()
            access = Access(api_key=KEY, base_url="http://provider.test/v1")
            problem = await fails(Talk(engine, access).say("one"))
            assert expected in problem.message
            await engine.aclose()
        server.close()

    asyncio.run(main())
    assert asked == [b"POST http://provider.test/v1/responses HTTP/1.1\r\n"]


def test_a_provider_behind_tls_and_a_proxy(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy opens a tunnel and sees no more than where it goes; it is told its own login, not the key."""
    tunnels: list[bytes] = []
    requests: list[bytes] = []
    port = 0

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        requests.append(head)
        event = b'event: error\ndata: {"type":"error","code":"no","message":"as you can see"}\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + event)
        await writer.drain()
        await reader.read()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        tunnels.append(head)
        if b"user" not in head and b"dXNlcjpodW50ZXI=" not in head:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        there, to = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, to), pipe(there, writer))

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def main() -> None:
        nonlocal port
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        served = await asyncio.start_server(provider, "127.0.0.1", 0, ssl=context)
        port = served.sockets[0].getsockname()[1]
        between = await asyncio.start_server(proxy, "127.0.0.1", 0)
        at = f"127.0.0.1:{between.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("no_proxy", "")
        for login, expected in (("user:hunter@", "as you can see"), ("", "cannot be reached")):
            monkeypatch.setenv("https_proxy", f"http://{login}{at}")
            engine = OpenAIEngine(background="off", state_mode="local")
            problem = await fails(Talk(engine, Access(api_key=KEY, base_url=f"https://localhost:{port}/v1")).say("one"))
            assert expected in problem.message
            await engine.aclose()
        served.close()
        between.close()

    asyncio.run(main())
    assert [head.partition(b"\r\n")[0] for head in tunnels] == [b"CONNECT localhost:%d HTTP/1.1" % port] * 2
    assert not any(KEY.encode() in head for head in tunnels)
    assert [KEY.encode() in head for head in requests] == [True]


def test_an_impossible_key_is_an_error_without_it(provider: ProviderSimulator) -> None:
    """A key that cannot be a header fails before anything is sent, and its error does not quote it."""

    async def play(talk: Talk) -> None:
        problem = await fails(talk.say("one"))
        shown = "".join(traceback.format_exception(type(problem), problem, problem.__traceback__))
        assert "sk-ü" not in shown
        assert "sk-\\xfc" not in shown
        assert "cannot be sent" in problem.message

    run(provider, play, key="sk-ü\n😀")
    assert provider.requests == []


@pytest.mark.parametrize("nested", [False, True])
def test_an_error_in_mid_stream(provider: ProviderSimulator, nested: bool) -> None:
    """Both shapes: the text before it comes first."""
    provider.script(reply("Hel", error("Overloaded", code="server_error", nested=nested)), reply("x", failed("No")))

    async def play(talk: Talk) -> None:
        await talk.start(text_message("user", "one"))
        said, problem = await talk.broken()
        assert (said, problem.message) == ("Hel", "Overloaded")
        assert (await fails(talk.say("two"))).message == "No"
        assert talk.stream is not None
        await talk.stream.aclose()

    run(provider, play)


# --- streams that break ---

DROPS: list[tuple[str, dict[str, Any]]] = [
    ("stream_drops", {}),
    ("stream_ends", {}),
    ("stream_drops", {"after": 6}),
    ("stream_drops", {"after_bytes": 2500}),
    ("stream_hangs", {"after": 8}),
    ("stream_hangs", {"after": 8, "keepalive": 0.05}),
]


@pytest.mark.parametrize(("fault", "arguments"), DROPS)
def test_a_broken_stream_is_resumed(provider: ProviderSimulator, fault: str, arguments: dict[str, Any]) -> None:
    """Dropped, ended early or silent: the response goes on where it was, each character once."""
    provider.fault(fault, times=1, on="create", **arguments)
    provider.script([words(SENTENCE), call("look")])

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert said == SENTENCE
        assert len(done.calls) == 1

    run(provider, play, patience=Patience(silence=0.3))
    assert operations(provider) == ["create", "resume"]


@pytest.mark.parametrize(
    ("fault", "arguments"),
    [
        ("plain_resume", {}),
        ("resume_expired", {}),
        ("resume_expired", {"status": 404}),
        ("resume_shifted", {"repeat": False}),
        ("resume_shifted", {"repeat": True}),
        ("resume_shifted", {"repeat": True, "renumber": True}),
        ("resume_shifted", {"repeat": True, "renumber": True, "skip": 0}),
        ("stream_drops", {"on": "resume", "after": 2}),
        ("stream_drops", {"on": "resume", "after": 0}),
        ("drop", {"on": "resume"}),
        ("status", {"on": "resume", "status": 500}),
        ("no_sequence_numbers", {}),
        ("sequence_from_one", {}),
        ("no_text_done", {}),
        ("unknown_events", {}),
        ("null_conversation", {}),
        ("output_when_done", {}),
        ("lone_surrogates", {}),
        ("no_usage", {}),
    ],
)
@pytest.mark.parametrize("after", [6, 12, 25])
def test_resuming_at_odd_servers(
    provider: ProviderSimulator, fault: str, arguments: dict[str, Any], after: int
) -> None:
    """Whatever the second connection does, each character comes once and the response ends."""
    provider.fault("stream_drops", times=1, on="create", after=after)
    provider.fault(fault, **arguments)
    provider.script([reasoning("hm"), words(SENTENCE), text("And ", "more.")])

    async def play(talk: Talk) -> None:
        assert (await talk.step(text_message("user", "one")))[0] == SENTENCE + "And more."
        assert len([item for item in talk.items if item["type"] == "message" and item["role"] == "assistant"]) == 2

    run(provider, play)


@pytest.mark.parametrize("seed", range(4))
def test_any_chunks(provider: ProviderSimulator, seed: int) -> None:
    """However the network cuts the stream."""
    provider.fault("chunking", seed=seed)
    provider.fault("lone_surrogates")
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play)


@pytest.mark.parametrize("fault", ["resume_expired", "plain_resume"])
def test_a_server_that_cannot_resume_is_asked_once(provider: ProviderSimulator, fault: str) -> None:
    """Then it is polled."""
    provider.fault("stream_drops", times=1, on="create", after=6)
    provider.fault(fault)
    gate = Gate()
    sleeps = Sleeps()
    sleeps.instead = lambda: gate.release() if operations(provider).count("retrieve") else None
    provider.script(text("one ", "two ", gate, "three"))

    async def play(talk: Talk) -> None:
        assert await talk.say("go") == "one two three"

    run(provider, play, patience=Patience(sleep=sleeps))
    assert operations(provider)[:3] == ["create", "resume", "retrieve"]
    assert set(operations(provider)[3:]) <= {"retrieve"}


def test_polling_survives_errors(provider: ProviderSimulator) -> None:
    """A poll that fails for now is repeated."""
    provider.fault("stream_drops", times=1, on="create", after=8)
    provider.fault("plain_resume")
    provider.fault("status", on="retrieve", times=4)
    provider.script(words(SENTENCE), "again")

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play)


def test_polling_brings_text_while_the_response_goes_on(provider: ProviderSimulator) -> None:
    """A server that cannot resume is asked every two seconds, and each answer's new text goes out."""
    gate = Gate()
    provider.fault("stream_drops", times=1, on="create", after=6)
    provider.fault("plain_resume")
    provider.script(text("one ", "two ", "three ", gate, "four"))
    sleeps = Sleeps()

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "go"))
        events: list[Event] = []

        def take(batch: Sequence[Event]) -> None:
            events.extend(batch)
            if spoken(events).endswith("three "):
                assert not isinstance(events[-1], StepDone)
                sleeps.instead = gate.release

        await stream.read(take)
        assert spoken(events) == "one two three four"
        await stream.aclose()

    run(provider, play, patience=Patience(sleep=sleeps))
    assert 2.0 in sleeps.asked


@pytest.mark.parametrize(
    ("faults", "options"),
    [
        (["no_retrieve"], {}),
        ([], {"background": "off"}),
        ([], {"state_mode": "local"}),
    ],
)
def test_a_lost_response(provider: ProviderSimulator, faults: list[str], options: dict[str, Any]) -> None:
    """Where nothing can be read any more, what was read goes out and the loss is told."""
    for fault in faults:
        provider.fault(fault)
    provider.fault("stream_drops", on="create", after=7)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        await talk.start(text_message("user", "one"))
        said, problem = await talk.broken()
        assert problem.code == LOST
        assert said
        assert SENTENCE.startswith(said)

    run(provider, play, **options)


def test_a_foreground_response_that_survives_is_polled(provider: ProviderSimulator) -> None:
    """Some servers finish what nobody listens to."""
    provider.fault("stream_drops", on="create", after=7, goes_on=True)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        assert await talk.say("one") == SENTENCE

    run(provider, play, background="off")


def test_a_stream_that_ends_before_its_response_is_named(provider: ProviderSimulator) -> None:
    """Nothing can be followed, and nothing is asked again."""
    provider.fault("stream_ends", on="create", after=0)

    async def play(talk: Talk) -> None:
        assert (await fails(talk.say("one"))).code == LOST

    run(provider, play)
    assert operations(provider) == ["create"]


@pytest.mark.parametrize("fault", ["no_created", "incomplete_completed", "output_when_done", "no_text_done"])
def test_odd_but_whole_streams(provider: ProviderSimulator, fault: str) -> None:
    """Nothing breaks, something is missing."""
    provider.fault(fault)
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        said, done = await talk.step(text_message("user", "one"))
        assert said == SENTENCE
        assert ("length" if fault == "incomplete_completed" else "stop") == done.finish_reason

    run(provider, play)


def test_no_usage_is_estimated(provider: ProviderSimulator) -> None:
    """Marked as such."""
    provider.fault("no_usage")
    provider.script("12345678")

    async def play(talk: Talk) -> None:
        _, done = await talk.step(text_message("user", "1234"))
        assert (done.usage.estimated, done.usage.completion_tokens) == (True, 2)

    run(provider, play)


def test_a_stream_made_from_a_cursor(provider: ProviderSimulator) -> None:
    """Another process that knows the cursor and the text goes on from there."""
    provider.script(words(SENTENCE))

    async def play(talk: Talk) -> None:
        first = await talk.start(text_message("user", "one"))
        events = await talk.events()
        await first.aclose()
        known = [event for event in events if isinstance(event, Text)][:4]
        transcript = Transcript({known[-1].part: spoken(known)})
        client = await talk.engine._clients.take(talk.access)
        reader = Reader(dict(first.handle), key=KEY, prompt=0, transcript=transcript, cursor=known[-1].sequence)
        talk.stream = ResponseStream(
            reader,
            api=talk.engine._api(client, talk.access),
            patience=Patience(),
            release=lambda: talk.engine._clients.release(client),
        )
        assert spoken(known) + spoken(await talk.events()) == SENTENCE
        await talk.stream.aclose()

    run(provider, play)


# --- stopping ---


def test_who_stops_reading_hears_nothing_more(provider: ProviderSimulator) -> None:
    """A stream whose reader was cancelled hands nothing on, though its connection is not closed yet."""
    gate = Gate()
    provider.script(text("Hel", gate, "lo"))
    heard: list[Event] = []

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        reading = asyncio.ensure_future(stream.read(heard.extend))
        while not heard:
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        gate.release()
        reply = stream._reply
        while reply is not None and not reply.over:
            await asyncio.sleep(0.001)
        assert spoken(heard) == "Hel"
        await stream.aclose()

    run(provider, play)


def test_cancelling(provider: ProviderSimulator) -> None:
    """A running response stops; asked again, or about one that is over or unknown, nothing happens."""
    gate = Gate()
    provider.script(text("Hel", gate, "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        await first(stream)
        await stream.aclose()
        for _ in range(2):
            await talk.engine.cancel(stream.handle, talk.access)
        assert None is await talk.engine.cancel({**stream.handle, "response_id": "resp_unknown"}, talk.access)

    run(provider, play)
    [record] = provider.responses.values()
    assert record.status == "cancelled"


def test_cancelling_a_completed_response_tells_its_usage(provider: ProviderSimulator) -> None:
    """The answer is 400 "Cannot cancel"; the usage is read instead."""
    provider.script(reply("Hi", usage=(3, 4)))

    async def play(talk: Talk) -> None:
        await talk.say("one")
        assert talk.stream is not None
        usage = await talk.engine.cancel(talk.stream.handle, talk.access)
        assert usage is not None
        assert usage.total_tokens == 7

    run(provider, play)
    assert operations(provider) == ["create", "cancel", "retrieve"]


@pytest.mark.parametrize("fault", ["no_cancel", "no_retrieve", "drop", "status"])
def test_cancelling_never_raises(provider: ProviderSimulator, fault: str) -> None:
    """Whatever the provider answers, the run is over for us."""
    provider.script("Hi")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        where: dict[str, Any] = {"on": "*"} if fault in ("drop", "status") else {}
        provider.fault(fault, **where)
        assert talk.stream is not None
        await talk.engine.cancel(talk.stream.handle, talk.access)

    run(provider, play)


def test_a_foreground_response_is_cut_by_closing(provider: ProviderSimulator) -> None:
    """There is nothing to ask for."""
    provider.script(text("Hel", Gate(), "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        await stream.aclose()
        assert None is await talk.engine.cancel(stream.handle, talk.access)

    run(provider, play, background="off")
    assert operations(provider) == ["create"]


def test_closing_while_somebody_reads(provider: ProviderSimulator) -> None:
    """The reader is let go; it neither reconnects nor hangs."""
    provider.script(text("Hel", Gate(), "lo"))

    async def play(talk: Talk) -> None:
        stream = await talk.start(text_message("user", "one"))
        reading = asyncio.ensure_future(talk.events())
        await asyncio.sleep(0.05)
        await stream.aclose()
        assert spoken(await asyncio.wait_for(reading, 5)) == "Hel"

    run(provider, play)
    assert operations(provider) == ["create"]


# --- interrupted turns ---


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", [None, "commit_on_cut", "cancel_completes", "cancel_hangs_stream"])
def test_a_thread_goes_on_after_a_stop(provider: ProviderSimulator, mode: str, fault: str | None) -> None:
    """Whatever a cut response left at the provider, the next turn has each message once."""
    gate = Gate()
    contexts: list[list[str]] = []

    def brain(request: BrainRequest) -> str:
        contexts.append(request.user_texts)
        return "fine"

    provider.brain = brain
    provider.script("Hello", text("Well ", "then ", gate, "you see"))
    if fault:
        provider.fault(fault)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        stream = await talk.start(text_message("user", "two"))
        await first(stream)
        await talk.cut(text_message("assistant", "Well "))
        gate.release()
        assert await talk.say("three") == "fine"
        assert await talk.say("four") == "fine"

    run(provider, play, state_mode=mode)
    assert contexts == [["one", "two", "three"], ["one", "two", "three", "four"]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "faults",
    [
        [],
        [("commit_on_cut", {})],
        [("commit_on_cut", {"calls": False})],
        [("call_not_committed", {})],
        [("commit_late", {"seconds": 0.2})],
        [("commit_late", {"seconds": 0.2, "locked": True})],
        [("endless_pages", {})],
    ],
)
@pytest.mark.parametrize("moment", ["before the end", "after the call", "during the outputs"])
def test_a_tool_turn_cut_off_anywhere(
    provider: ProviderSimulator, mode: str, faults: list[tuple[str, dict[str, Any]]], moment: str
) -> None:
    """Neither a call without output nor an output without call stops the thread."""
    gate = Gate()
    provider.brain = lambda request: "fine"
    called = call("look", call_id="call_1")
    if moment == "before the end":
        provider.script("Hello", [called, text("x", gate)])
    elif moment == "after the call":
        provider.script("Hello", called)
    else:
        provider.script("Hello", called, text("found", gate))
    for name, arguments in faults:
        provider.fault(name, **arguments)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        made: Item = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
        closed = output_of("call_1", "stopped before its result was known")
        if moment == "before the end":
            stream = await talk.start(text_message("user", "two"))
            await first(stream)
            await talk.cut(made, closed)
        else:
            await talk.step(text_message("user", "two"))
            if moment == "after the call":
                talk.items.append(closed)
            else:
                stream = await talk.start(output_of("call_1"))
                await first(stream)
                await talk.cut()
        gate.release()
        assert await talk.say("three") == "fine"
        assert await talk.say("four") == "fine"

    run(provider, play, state_mode=mode, patience=Patience(lock_waits=(0.1, 0.2, 0.4)))


def test_a_response_that_goes_on_after_a_cut_is_waited_for(provider: ProviderSimulator) -> None:
    """What it still commits must be known before the next turn is sent."""
    gate = Gate()
    sleeps = Sleeps()
    sleeps.instead = gate.release
    provider.brain = lambda request: f"{len(request.context)} items"
    provider.script("Hello", text("Well ", gate, "then"))

    async def play(talk: Talk) -> None:
        await talk.say("one")
        stream = await talk.start(text_message("user", "two"))
        await first(stream)
        await talk.cut(text_message("assistant", "Well "), cancel=False)
        assert await talk.say("three") == "5 items"

    run(provider, play, state_mode="conversation", patience=Patience(sleep=sleeps))
    assert sleeps.asked[0] == 1.0
    assert operations(provider)[3:5] == ["retrieve", "retrieve"]
    assert operations(provider)[-2:] == ["items.list", "create"]


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_a_call_the_state_does_not_know(provider: ProviderSimulator, mode: str) -> None:
    """The provider names the call it misses an output for, and gets one."""
    provider.script(call("look", call_id="call_1"), "fine")

    async def play(talk: Talk) -> None:
        await talk.step(text_message("user", "one"))
        talk.state = {name: value for name, value in (talk.state or {}).items() if name != "calls"}
        assert await talk.say("two") == "fine"

    run(provider, play, state_mode=mode)
    last = bodies(provider)[-1]["input"]
    assert last[0] == {"type": "function_call_output", "call_id": "call_1", "output": UNKNOWN_RESULT}
    assert len(bodies(provider)) == 3


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_several_calls_the_state_does_not_know(provider: ProviderSimulator, mode: str) -> None:
    """The second complaint of a kind makes the step start over from the history."""
    provider.script([call("look", call_id="call_1"), call("look", call_id="call_2")], "fine")

    async def play(talk: Talk) -> None:
        await talk.step(text_message("user", "one"))
        talk.state = {name: value for name, value in (talk.state or {}).items() if name != "calls"}
        assert await talk.say("two") == "fine"

    run(provider, play, state_mode=mode)
    assert {"responses": 0, "conversation": 2}[mode] == len(provider.conversations)


@pytest.mark.parametrize("mode", ["responses", "conversation"])
def test_an_output_the_provider_has_no_call_for(provider: ProviderSimulator, mode: str) -> None:
    """It is dropped, or the step starts over where nothing else is to be said."""
    provider.script("Hello", "fine", "fine")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        talk.state = {**(talk.state or {}), "calls": ["call_1"]}
        assert (await talk.step(output_of("call_1"), text_message("user", "two")))[0] == "fine"
        talk.state = {**(talk.state or {}), "calls": ["call_2"]}
        assert (await talk.step(output_of("call_2")))[0] == "fine"

    run(provider, play, state_mode=mode)
    assert len(bodies(provider)) == 5


# --- what the provider has lost ---


def test_an_expired_response(provider: ProviderSimulator) -> None:
    """The chain starts anew from the history, once."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        provider.fault("previous_response_expired", times=1)
        assert await talk.say("two") == "b"

    run(provider, play)
    assert len(bodies(provider)) == 3
    assert [item["role"] for item in bodies(provider)[-1]["input"]] == ["user", "assistant", "user"]


def test_a_deleted_conversation(provider: ProviderSimulator) -> None:
    """A new one is made of the history."""
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        dict.clear(provider.conversations)  # type: ignore[arg-type]
        assert await talk.say("two") == "b"

    run(provider, play, state_mode="conversation")
    [conversation] = provider.conversations.values()
    assert len(conversation.items) == 4


def test_a_long_history_enters_a_conversation_in_blocks(provider: ProviderSimulator) -> None:
    """At most twenty items a request; broken pairs in it are made whole."""
    provider.brain = lambda request: str(len(request.context))

    async def play(talk: Talk) -> None:
        for number in range(22):
            talk.items += [text_message("user", f"q{number}"), text_message("assistant", f"a{number}")]
        talk.items += [{"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}]
        talk.items += [output_of("call_unknown")]
        talk.covered = len(talk.items)
        assert await talk.say("now") == "47"

    run(provider, play, state_mode="conversation")
    assert operations(provider) == ["conversations.create", "items.create", "items.create", "create"]
    assert [len(request.body["items"]) for request in provider.requests[:3]] == [20, 20, 6]


def test_a_server_without_conversations(provider: ProviderSimulator) -> None:
    """Chained responses do instead, and it is not asked again."""
    provider.fault("no_conversations")
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.say("two")

    run(provider, play, state_mode="conversation")
    assert operations(provider) == ["conversations.create", "create", "create"]
    assert "previous_response_id" in bodies(provider)[-1]


def test_a_locked_conversation(provider: ProviderSimulator) -> None:
    """Three waits, then a conflict."""
    sleeps = Sleeps()
    provider.script("a", "b")

    async def play(talk: Talk) -> None:
        await talk.say("one")
        provider.fault("conversation_locked", times=2)
        assert await talk.say("two") == "b"
        assert sleeps.asked == [1.0, 2.0]
        provider.fault("conversation_locked")
        problem = await fails(talk.say("three"))
        assert (problem.status, problem.code) == (409, "conversation_locked")
        assert sleeps.asked == [1.0, 2.0, 1.0, 2.0, 4.0]

    run(provider, play, state_mode="conversation", patience=Patience(sleep=sleeps))


@pytest.mark.parametrize(("before", "after"), [("responses", "conversation"), ("conversation", "responses")])
def test_another_state_mode(provider: ProviderSimulator, before: str, after: str) -> None:
    """A thread whose state is of the other kind goes on from its history."""
    provider.brain = lambda request: ", ".join(request.user_texts)

    async def play(talk: Talk) -> None:
        await talk.say("one")
        await talk.engine.aclose()
        talk.engine = OpenAIEngine(state_mode=after)  # type: ignore[arg-type]
        assert await talk.say("two") == "one, two"
        await talk.engine.aclose()

    run(provider, play, state_mode=before)


# --- clients ---


def test_clients_are_few_and_closed_when_idle(provider: ProviderSimulator) -> None:
    """One per key, the least recently used first to go, never one in use."""
    now = [0.0]

    async def main() -> None:
        clients = Clients(size=2, idle=10.0, clock=lambda: now[0])
        access = [Access(api_key=f"sk-{number}", base_url=provider.base_url) for number in range(4)]
        first = await clients.take(access[0])
        assert first is await clients.take(access[0])
        clients.release(first)
        second = await clients.take(access[1])
        clients.release(second)
        third = await clients.take(access[2])
        assert len(clients._clients) == 2
        assert first is await clients.take(access[0])
        clients.release(first)
        clients.release(first)
        clients.release(third)
        now[0] = 20.0
        fourth = await clients.take(access[3])
        assert [fourth] == list(clients._clients.values())
        clients.release(fourth)
        await clients.aclose()

    asyncio.run(main())


def test_a_run_that_only_streams_makes_no_sdk_client(provider: ProviderSimulator) -> None:
    """A caller with a key of its own does not wait for what only other calls need; those make one, once."""
    provider.brain = lambda request: "ok"

    async def play(talk: Talk) -> None:
        await talk.say("one")
        client = await talk.engine._clients.take(talk.access)
        assert client._sdk is None
        first, second = await asyncio.gather(client.sdk(), client.sdk())
        assert first is second
        talk.engine._clients.release(client)

    run(provider, play, state_mode="responses")


def test_each_key_is_used_for_its_own_requests_only(provider: ProviderSimulator) -> None:
    """Many threads at once, each with a key of its own."""
    provider.brain = lambda request: request.user_texts[-1]

    async def main() -> None:
        engine = OpenAIEngine()
        talks = [Talk(engine, Access(api_key=f"sk-{number:016}", base_url=provider.base_url)) for number in range(8)]
        answers = await asyncio.gather(*(talk.say(talk.access.api_key) for talk in talks for _ in (1,)))
        assert [talk.access.api_key for talk in talks] == answers
        await engine.aclose()

    asyncio.run(main())
    for request in provider.requests:
        assert request.key == request.body["input"][0]["content"][0]["text"]


def test_a_connection_is_used_again(provider: ProviderSimulator) -> None:
    """A step that was read to its end leaves its connection to those after it, once its body has ended too."""
    kept: list[int] = []
    provider.fault("chunking", size=100_000, delay=0.03)
    provider.brain = lambda request: "ok"

    async def play(talk: Talk) -> None:
        for sentence in ("one", "two", "three"):
            await talk.say(sentence)
        client = next(iter(talk.engine._clients._clients.values()))
        assert client.wire._pool is not None
        kept.append(len(client.wire._pool._open))

    run(provider, play)
    assert kept[0] <= 2
