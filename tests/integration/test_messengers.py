from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import ssl
import threading
import traceback
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from bf_plugin.errors import ConfigurationError, DeliveryError, DeliveryRefused, DeliveryRetry, RequestError
from bf_plugin.gateway.asking import AskedApps, ask_remote
from bf_plugin.gateway.host import HostCaller
from bf_plugin.gateway.messengers import Destination, HostMessenger, Messenger
from bf_plugin.gateway.remote import HttpMessenger, create_messenger
from bf_plugin.plugins.context import PluginContext
from bf_plugin.settings import load_settings
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from loops import LOOPS, NewLoop

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

KEY = "BFAPI_secret"
MESSAGE = json.dumps(
    {"actions": [{"action": "namedAction", "name": "show", "options": {"type": "delta", "content": "Grüße 🌍"}}]},
    ensure_ascii=False,
).encode()


@pytest.fixture
def gateway() -> RecordingGateway:
    """A gateway that knows one key."""
    return RecordingGateway(keys=[KEY])


@pytest.fixture(params=["http", "host"])
def deliver(request: pytest.FixtureRequest, gateway: RecordingGateway) -> Iterator[Callable[[bytes], None]]:
    """Delivers one message to the gateway, over HTTP or in-process, within half a second."""
    if request.param == "http":
        with GatewayServer(gateway) as server:
            yield _deliverer(lambda: HttpMessenger(timeout=0.5), url=server.url + "/")
        return
    with closing(HostCaller(gateway, deadline=0.5)) as caller:
        yield _deliverer(lambda: HostMessenger(caller), host_environ={"HTTP_HOST": "gateway.example"})
        gateway.release()


def _deliverer(make: Callable[[], Messenger], **where: Any) -> Callable[[bytes], None]:
    destination = Destination(app="portal", api_key=KEY, channels=["one", "zwei"], **where)

    async def send(message: bytes) -> None:
        messenger = make()
        try:
            await messenger.send(destination, message)
        finally:
            await messenger.aclose()

    return lambda message: asyncio.run(send(message))


def test_a_message_arrives_byte_for_byte(deliver: Callable[[bytes], None], gateway: RecordingGateway) -> None:
    """The gateway gets key, channels and the message as it was sealed."""
    deliver(MESSAGE)
    (attempt,) = gateway.attempts
    assert attempt.body == b'{"apiKey":"BFAPI_secret","channels":["one","zwei"],"message":' + MESSAGE + b"}"
    assert (attempt.channels, attempt.status) == (["one", "zwei"], 201)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_gateway_in_trouble_is_tried_again(
    deliver: Callable[[bytes], None], gateway: RecordingGateway, status: int
) -> None:
    """What may pass is a retry, and the error tells the status only."""
    gateway.fault("status", status)
    with pytest.raises(DeliveryRetry, match=f"answered {status}") as caught:
        deliver(MESSAGE)
    _tells_nothing(caught.value)
    deliver(MESSAGE)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413])
def test_a_refusal_is_final(deliver: Callable[[bytes], None], gateway: RecordingGateway, status: int) -> None:
    """What will not pass is refused."""
    gateway.fault("status", status)
    with pytest.raises(DeliveryRefused, match=f"answered {status}") as caught:
        deliver(MESSAGE)
    _tells_nothing(caught.value)


@pytest.mark.parametrize("kind", ["hang", "drop"])
def test_no_answer_is_doubt(deliver: Callable[[bytes], None], gateway: RecordingGateway, kind: Any) -> None:
    """Where the gateway may have taken the message or not, it is a retry."""
    gateway.fault(kind, delivered=True)
    with pytest.raises(DeliveryRetry) as caught:
        deliver(MESSAGE)
    _tells_nothing(caught.value)
    assert len(gateway.messages) == 1
    gateway.release()


def _tells_nothing(error: DeliveryError) -> None:
    told = "".join(traceback.format_exception(error))
    assert KEY not in told
    assert "Grüße" not in told


@pytest.mark.parametrize("messenger", [HttpMessenger(), HostMessenger(HostCaller(RecordingGateway()))])
def test_a_destination_of_another_kind_is_refused(messenger: Messenger) -> None:
    """A run that was journalled for another messenger cannot be delivered by this one."""
    with pytest.raises(DeliveryRefused, match="destination"):
        asyncio.run(messenger.send(Destination(app="a", api_key=KEY, channels=["c"]), MESSAGE))


# HTTP


@asynccontextmanager
async def serving(answer: bytes, *, stay: bool = False) -> AsyncIterator[tuple[Destination, list[bytes]]]:
    """Answer every request with these bytes and close the connection (`stay`: keep it open); list the requests."""
    requests: list[bytes] = []
    stop = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            requests.append(head + await reader.readexactly(length))
            writer.write(answer)
            await writer.drain()
            if stay:
                await stop.wait()
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Destination(app="a", api_key=KEY, channels=["c"], url=f"http://127.0.0.1:{port}/base"), requests
    finally:
        stop.set()
        server.close()


def deliver_over_http(answer: bytes, *, stay: bool = False, timeout: float = 5.0) -> list[bytes]:
    """Deliver a message to a server that answers like that and return what it was sent."""

    async def main() -> list[bytes]:
        messenger = HttpMessenger(timeout=timeout)
        async with serving(answer, stay=stay) as (destination, requests):
            try:
                await messenger.send(destination, MESSAGE)
            finally:
                await messenger.aclose()
        return requests

    return asyncio.run(main())


def test_the_request_is_a_plain_json_post_below_the_url() -> None:
    """The path joins the messaging URL's; no cookies, nothing compressed."""
    (request,) = deliver_over_http(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nSet-Cookie: a=b\r\n\r\n{}")
    head = request.partition(b"\r\n\r\n")[0].lower()
    assert head.startswith(b"post /base/message/sendmessage http/1.1")
    assert b"content-type: application/json" in head
    assert b"accept-encoding: identity" in head


def test_connections_are_kept_and_cookies_are_not() -> None:
    """Messages of a run go over one connection, and none carries what an answer set."""

    async def main() -> int:
        gateway = RecordingGateway(keys=[KEY])
        peers: set[str] = set()

        def counting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            assert "HTTP_COOKIE" not in environ
            peers.add(environ["REMOTE_PORT"])

            def with_cookie(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
                return start_response(status, [*headers, ("Set-Cookie", "a=b")], *rest)

            return gateway(environ, with_cookie)

        messenger = HttpMessenger()
        with GatewayServer(gateway, app=counting) as server:
            destination = Destination(app="a", api_key=KEY, channels=["c"], url=server.url)
            for _ in range(5):
                await messenger.send(destination, MESSAGE)
            await messenger.aclose()
        assert len(gateway.messages) == 5
        return len(peers)

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{}"[:-2],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)
def test_the_status_decides_not_the_body(answer: bytes) -> None:
    """Without a length, with no body, or broken off after the status: accepted is accepted."""
    assert len(deliver_over_http(answer)) == 1


def test_an_answer_that_stays_open_is_taken_at_its_time_out() -> None:
    """A body that never ends costs the timeout, not the message."""
    assert len(deliver_over_http(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", stay=True, timeout=0.2)) == 1


def test_redirects_are_not_followed() -> None:
    """The key goes nowhere the operator did not say."""
    with pytest.raises(DeliveryRefused, match="307"):
        deliver_over_http(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")


def test_retry_after_is_passed_on() -> None:
    """The outbox may wait as long as the gateway asks."""
    with pytest.raises(DeliveryRetry) as caught:
        deliver_over_http(b"HTTP/1.1 503 Busy\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n")
    assert caught.value.retry_after == 4.0


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 999999 X\r\n\r\n"])
def test_what_is_not_http_is_doubt(answer: bytes) -> None:
    """A server that answers something else may come to its senses."""
    with pytest.raises(DeliveryRetry) as caught:
        deliver_over_http(answer)
    _tells_nothing(caught.value)


def test_a_gateway_that_is_not_there_is_tried_again() -> None:
    """A refused connection is a retry, and does not tell a password in the URL."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:hunter@127.0.0.1:{unused.getsockname()[1]}"
        send = _deliverer(HttpMessenger, url=url)
        with pytest.raises(DeliveryRetry) as caught:
            send(MESSAGE)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["nowhere", "http://", "http://a:b/"])
def test_a_url_that_is_none_is_final(url: str) -> None:
    """A messaging URL nobody can call is not tried for 30 s."""
    with pytest.raises(DeliveryRefused, match="not valid"):
        _deliverer(HttpMessenger, url=url)(MESSAGE)


def test_connections_to_one_gateway_are_limited() -> None:
    """Over the limit deliveries wait for a connection."""

    async def main() -> None:
        gateway = RecordingGateway(keys=[KEY])
        gateway.fault("hang", times=2)
        messenger = HttpMessenger(connections=2)
        with GatewayServer(gateway) as server:
            destination = Destination(app="a", api_key=KEY, channels=["c"], url=server.url)
            sending = [asyncio.ensure_future(messenger.send(destination, MESSAGE)) for _ in range(6)]
            await asyncio.to_thread(gateway.wait_for, lambda: len(gateway.attempts) == 2)
            done, _ = await asyncio.wait(sending, timeout=0.2)
            assert (done, len(gateway.attempts)) == (set(), 2)
            gateway.release()
            await asyncio.gather(*sending)
            await messenger.aclose()
        assert len(gateway.attempts) == 6

    asyncio.run(main())


def test_apps_take_turns() -> None:
    """When all connections are busy, an app with little to say does not wait behind one with much."""

    async def main() -> list[str]:
        gateway = RecordingGateway(keys=[KEY])
        gateway.fault("hang")
        messenger = HttpMessenger(connections=1)
        with GatewayServer(gateway) as server:
            apps = ["busy"] * 6 + ["quiet"] * 2
            whose = [Destination(app=app, api_key=KEY, channels=[app], url=server.url) for app in apps]
            sending = [asyncio.ensure_future(messenger.send(destination, MESSAGE)) for destination in whose]
            await asyncio.to_thread(gateway.wait_for, lambda: len(gateway.attempts) == 1)
            gateway.release()
            await asyncio.gather(*sending)
            await messenger.aclose()
        return [attempt.channels[0] for attempt in gateway.attempts]

    assert asyncio.run(main()) == ["busy", "busy", "quiet", "busy", "quiet", "busy", "busy", "busy"]


def test_who_waits_no_longer_leaves_its_turn_to_others() -> None:
    """A delivery that is cancelled, waiting or under way, costs nobody a connection."""

    async def main() -> int:
        gateway = RecordingGateway(keys=[KEY])
        gateway.fault("hang")
        messenger = HttpMessenger(connections=1)
        with GatewayServer(gateway) as server:
            destination = Destination(app="a", api_key=KEY, channels=["c"], url=server.url)
            under_way, waiting, last = (asyncio.ensure_future(messenger.send(destination, MESSAGE)) for _ in range(3))
            await asyncio.to_thread(gateway.wait_for, lambda: len(gateway.attempts) == 1)
            waiting.cancel()
            under_way.cancel()
            await last
            gateway.release()
            await messenger.aclose()
        return len(gateway.attempts)

    assert asyncio.run(main()) == 2


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    """A gateway that hangs up between two messages costs no retry."""

    async def main() -> int:
        messenger = HttpMessenger()
        async with serving(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}") as (destination, requests):
            for _ in range(3):
                await messenger.send(destination, MESSAGE)
            await messenger.aclose()
        return len(requests)

    assert asyncio.run(main()) == 3


def test_a_connection_that_is_closed_under_a_message_is_replaced() -> None:
    """The server may close a kept connection just as we write: the message goes over another one, once more."""

    async def main() -> list[bytes]:
        bodies: list[bytes] = []
        handlers: list[Any] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            handlers.append(asyncio.current_task())
            try:
                for answered in (True, False):  # the second request of a connection gets no answer
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    bodies.append(await reader.readexactly(length))
                    if answered:
                        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            except asyncio.IncompleteReadError:
                pass  # the messenger is closed
            finally:
                writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        destination = Destination(app="a", api_key=KEY, channels=["c"], url=url)
        messenger = HttpMessenger()
        await messenger.send(destination, b'{"number":1}')
        await messenger.send(destination, b'{"number":2}')
        await messenger.aclose()
        server.close()
        await asyncio.gather(*handlers)
        return [body[-13:-1] for body in bodies]

    assert asyncio.run(main()) == [b'{"number":1}', b'{"number":2}', b'{"number":2}']


def test_unused_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not stay for ever: most servers would close them under us."""
    monkeypatch.setattr("bf_plugin.gateway.pool._IDLE_TIMEOUT", 0.05)

    async def main() -> None:
        closed = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}}")
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            writer.close()
            closed.set()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        messenger = HttpMessenger()
        await messenger.send(Destination(app="a", api_key=KEY, channels=["c"], url=url), b'{"a":{}}')
        await asyncio.wait_for(closed.wait(), 10)
        await messenger.aclose()
        server.close()

    asyncio.run(main())


def test_a_head_with_bare_line_feeds_is_read() -> None:
    """Old gateways end their lines so; the status, and when to come again, are told all the same."""
    assert len(deliver_over_http(b"HTTP/1.1 201 Created\nContent-Length: 2\n\n{}")) == 1
    with pytest.raises(DeliveryRetry) as caught:
        deliver_over_http(b"HTTP/1.1 503 Busy\nRetry-After: 4\nContent-Length: 0\n\n")
    assert caught.value.retry_after == 4.0


def test_a_length_and_chunks_at_once() -> None:
    """The chunks count, and nothing else goes over that connection: who comes next might get what is left of it."""

    async def main() -> list[bool]:
        closed: list[bool] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}}")
            head = b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            writer.write(head + b"2\r\n{}\r\n0\r\n\r\n")
            await reader.read()
            closed.append(True)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        messenger = HttpMessenger()
        for _ in range(2):
            await messenger.send(Destination(app="a", api_key=KEY, channels=["c"], url=url), b'{"a":{}}')
        while len(closed) < 2:
            await asyncio.sleep(0.001)
        await messenger.aclose()
        server.close()
        return closed

    assert asyncio.run(asyncio.wait_for(main(), 10)) == [True, True]


@pytest.mark.parametrize("new_loop", LOOPS)
def test_an_address_that_hangs_is_not_waited_for(new_loop: NewLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a host with several addresses the first that answers is used."""

    async def main(hangs: tuple[str, int]) -> int:
        async with serving(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n") as (destination, requests):
            well = ("127.0.0.1", urlsplit(str(destination.url)).port)

            loop = asyncio.get_running_loop()
            look_up: Any = loop.getaddrinfo

            async def both(host: Any, *args: Any, **options: Any) -> Any:
                if host != "gateway.test":
                    return await look_up(host, *args, **options)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (hangs, well)]

            monkeypatch.setattr(loop, "getaddrinfo", both)
            messenger = HttpMessenger(timeout=4.0)
            url = str(destination.url).replace("127.0.0.1", "gateway.test")
            await messenger.send(dataclasses.replace(destination, url=url), MESSAGE)
            await messenger.aclose()
        return len(requests)

    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for queued in (first, second):  # whoever comes after them is not answered at all
            queued.setblocking(False)
            queued.connect_ex(full.getsockname())
        loop = new_loop()
        try:
            assert loop.run_until_complete(main(full.getsockname())) == 1
        finally:
            loop.close()


def test_an_early_answer_is_not_the_answer() -> None:
    """100 and 103 come before what counts."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert len(deliver_over_http(early + b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}")) == 1


def test_a_login_in_the_url_is_sent() -> None:
    """As browsers and other clients do; it is in no error (see above)."""

    async def main() -> bytes:
        messenger = HttpMessenger()
        async with serving(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n") as (destination, requests):
            url = str(destination.url).replace("http://", "http://user:hunter%40@")
            await messenger.send(dataclasses.replace(destination, url=url), MESSAGE)
            await messenger.aclose()
        return requests[0]

    assert b"authorization: basic " + b64encode(b"user:hunter@").lower() in asyncio.run(main()).lower()


def test_a_gateway_behind_tls_must_prove_who_it_is(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages go over TLS to a gateway whose certificate is trusted, and to no other."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            paths.append(self.path)
            self.send_response(201)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *args: object) -> None:
            pass  # a client that does not trust us hangs up

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        send = _deliverer(HttpMessenger, url=f"https://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(DeliveryRetry, match="SSLCertVerificationError"):
            send(MESSAGE)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        send(MESSAGE)
        server.shutdown()
        thread.join()
    assert paths == ["/message/sendmessage"]


def test_the_factory_makes_the_http_messenger() -> None:
    """What the entry points name is made of a plugin's context, and opens nothing, with or without a loop."""
    messenger = create_messenger(PluginContext(name="http", section={"connections": 2}))
    assert isinstance(messenger, HttpMessenger)
    asyncio.run(messenger.aclose())


@pytest.mark.parametrize("connections", [0, -1, "many", None])
def test_a_limit_that_is_none_is_refused(connections: object) -> None:
    """A wrong number of connections is found at start."""
    with pytest.raises(ConfigurationError, match=r"plugins\.http\.connections"):
        create_messenger(PluginContext(name="http", section={"connections": connections}))


# The host app


def test_a_stuck_host_is_counted_and_delivery_goes_on(gateway: RecordingGateway) -> None:
    """One message that hangs in the host does not keep the others from it."""
    with closing(HostCaller(gateway, threads=1, deadline=0.3)) as caller:
        send = _deliverer(lambda: HostMessenger(caller), host_environ={})
        gateway.fault("hang")
        with pytest.raises(DeliveryRetry, match="within"):
            send(MESSAGE)
        assert caller.stuck == 1
        send(MESSAGE)
        gateway.release()


def test_the_hosts_retry_after_is_passed_on() -> None:
    """In-process answers mean what they mean over HTTP."""

    def host(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("429 Slow down", [("retry-after", "2")])
        return []

    with closing(HostCaller(host)) as caller, pytest.raises(DeliveryRetry) as caught:
        _deliverer(lambda: HostMessenger(caller), host_environ={})(MESSAGE)
    assert caught.value.retry_after == 2.0


# Asking a remote gateway for keys


def test_a_remote_gateway_is_asked_for_keys(gateway: RecordingGateway) -> None:
    """With a messaging URL and no keys configured, the gateway there tells its keys from others."""
    with GatewayServer(gateway) as server:
        apps = AskedApps(ask_remote(server.url), load_settings(messaging_url=server.url))
        assert apps.authenticate(KEY, {}).messaging_url == server.url
        with pytest.raises(RequestError) as caught:
            apps.authenticate("BFAPI_bad", {})
        assert caught.value.code == 401


def test_a_remote_gateway_that_is_down_redirects_or_hangs_tells_nothing() -> None:
    """No answer, a redirect and silence are 503, and tell no key."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://user:hunter@127.0.0.1:{silent.getsockname()[1]}"
        assert ask_remote(url)(KEY, {}).problem == "the gateway gave no answer (ConnectionError)"
        silent.listen()
        assert ask_remote(url, timeout=0.1)(KEY, {}).problem == "the gateway gave no answer (ReadTimeout)"

    def redirects(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("307 Go", [("Location", "http://127.0.0.1:9/"), ("Content-Length", "0")])
        return []

    with GatewayServer(RecordingGateway(), app=redirects) as server:
        assert ask_remote(server.url + "/")(KEY, {}).status == 307
