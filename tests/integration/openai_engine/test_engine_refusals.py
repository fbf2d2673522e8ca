"""The OpenAI engine against the provider simulator: refused parameters, keys and starts; proxies."""

from __future__ import annotations

import asyncio
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.engines.openai import OpenAIEngine
from bf_plugin.engines.openai.api import Timeouts
from bf_plugin.engines.port import Access
from bf_plugin.items import text_message
from bf_plugin.testing.provider import ProviderSimulator, error, failed, reply
from openai_talks import KEY, Talk, bodies, fails, operations, run


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

    run(provider, play, timeouts=Timeouts(silence=0.3, long_silence=0.3))
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
