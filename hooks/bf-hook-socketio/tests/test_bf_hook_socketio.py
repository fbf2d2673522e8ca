"""The messenger by itself, against a real Redis: what it publishes, what counts as delivered, what it is told to do."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis as redis_client
import socketio  # type: ignore[import-untyped]
from bf_hook_socketio import Options, SocketIOMessenger, create_messenger
from click.testing import CliRunner

from bf_plugin import PluginContext
from bf_plugin.cli import main
from bf_plugin.errors import ConfigurationError, DeliveryError, DeliveryRefused, DeliveryRetry
from bf_plugin.messengers.port import Destination
from bf_plugin.run.outbox import Delivery, DeliveryFailed
from bf_plugin.settings import AppSettings, Settings
from bf_plugin.testing import check_plugin

T = TypeVar("T")

MESSAGE = json.dumps({"actions": [{"action": "namedAction", "name": "show", "options": {"content": "é🦄"}}]}).encode()
SECRET = "BFAPI_secret"


def destination(url: str | None, *channels: str) -> Destination:
    return Destination(app="shop", api_key=SECRET, channels=channels or ("news",), url=url)


def messenger(**section: Any) -> SocketIOMessenger:
    return create_messenger(PluginContext(name="socketio+redis", section=section))


def deliver(messenger: SocketIOMessenger, destination: Destination) -> None:
    """Send the message and close, on a loop of its own."""

    async def send() -> None:
        try:
            await messenger.send(destination, MESSAGE)
        finally:
            await messenger.aclose()

    asyncio.run(send())


class Listener:
    """Listens on a Redis channel, as the servers do."""

    def __init__(self, url: str, channel: str = "socketio") -> None:
        self._client = redis_client.Redis.from_url(url)
        self._subscription = self._client.pubsub()  # type: ignore[no-untyped-call]
        self._subscription.subscribe(channel)
        assert self._subscription.get_message(timeout=5)["type"] == "subscribe"

    def next(self) -> Any:
        message = self._subscription.get_message(timeout=5)
        assert message is not None, "nothing was published"
        data = message["data"]
        return json.loads(data) if data[:1] == b"{" else pickle.loads(data)  # managers pickled, before 5.14

    def close(self) -> None:
        self._subscription.close()
        self._client.close()


@pytest.fixture
def listener(redis: Any) -> Any:
    listener = Listener(redis.url)
    yield listener
    listener.close()


# what is published ---------------------------------------------------------------------------------------------------


def test_it_publishes_what_a_manager_publishes(redis: Any, listener: Listener) -> None:
    """Field by field what `emit` of python-socketio's own manager sends, but for the sender's id."""
    section = {"event": "assistant", "namespace": "/chat", "room_prefix": "channel:"}
    deliver(messenger(**section), destination(redis.messaging_url, "news", "sports"))
    ours = listener.next()
    rooms = ["channel:news", "channel:sports"]
    manager = socketio.RedisManager(redis.url, write_only=True)
    manager.emit("assistant", json.loads(MESSAGE), namespace="/chat", room=rooms)
    theirs = listener.next()
    manager.redis.close()
    assert ours.pop("host_id") != theirs.pop("host_id")
    theirs["data"] = theirs["data"][0] if isinstance(theirs["data"], list) else theirs["data"]
    assert ours == {"binary": False, **theirs}  # which older ones need not be told


def test_the_same_message_is_published_in_the_same_bytes() -> None:
    """What comes again after a failure can be compared with what came before."""
    one = messenger()
    assert one.frame(destination(None), MESSAGE) == one.frame(destination(None), MESSAGE)


def test_one_channel_is_one_room_and_nothing_of_the_key_is_published() -> None:
    """Servers from before lists of rooms take it too; the app key is not for browsers."""
    for shape in ("message", "envelope"):
        frame = messenger(payload=shape).frame(destination(None), MESSAGE)
        assert json.loads(frame)["room"] == "news"
        assert SECRET.encode() not in frame


def test_the_envelope_names_the_channels() -> None:
    """For pages in several rooms that want to know which one a message is for."""
    frame = json.loads(messenger(payload="envelope").frame(destination(None, "a", "b"), MESSAGE))
    assert frame["data"] == {"channels": ["a", "b"], "message": json.loads(MESSAGE)}


# what counts as delivered --------------------------------------------------------------------------------------------


def raised(messenger: SocketIOMessenger, destination: Destination) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        deliver(messenger, destination)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


def test_a_message_nobody_listens_to_is_not_delivered(redis: Any) -> None:
    """Redis takes it and keeps nothing: servers that come back from a restart would never hear of it."""
    error = raised(messenger(), destination(redis.messaging_url))
    assert isinstance(error, DeliveryRetry)
    assert str(error) == (
        "0 of 1 Socket.IO servers listen on the Redis channel socketio: "
        "see that they run, and use the messaging URL's Redis"
    )


def test_all_servers_must_listen_if_there_are_several(redis: Any, listener: Listener) -> None:
    """One of two is not enough, both are."""
    assert isinstance(raised(messenger(subscribers=2), destination(redis.messaging_url)), DeliveryRetry)
    second = Listener(redis.url)
    deliver(messenger(subscribers=2), destination(redis.messaging_url))
    second.close()


def test_delivery_may_be_left_to_chance(redis: Any) -> None:
    """Where Redis cannot count, as in a cluster."""
    deliver(messenger(subscribers=0), destination(redis.messaging_url))


def test_another_redis_channel(redis: Any) -> None:
    """It goes where the servers' manager listens."""
    listener = Listener(redis.url, "shop")
    deliver(messenger(redis_channel="shop"), destination(redis.messaging_url))
    assert listener.next()["event"] == "message"
    listener.close()


def test_a_redis_that_is_down_is_asked_again(new_redis: Callable[..., Any]) -> None:
    """The error says so, and not where: the URL may hold a password."""
    error = raised(messenger(), destination(new_redis().messaging_url.replace("//", f"//:{SECRET}@")))
    assert isinstance(error, DeliveryRetry)
    assert str(error) == (
        "Redis cannot be reached (ConnectionRefusedError): see that it runs where the messaging URL says"
    )


def test_a_redis_that_comes_back_is_found_again(redis: Any) -> None:
    """The connections of before are dead; the next message has a new one at once."""

    async def send_twice() -> None:
        one, where = messenger(subscribers=0), destination(redis.messaging_url)
        await one.send(where, MESSAGE)
        redis.kill()
        with pytest.raises(DeliveryRetry):
            await one.send(where, MESSAGE)
        redis.start()
        await one.send(where, MESSAGE)
        await one.aclose()

    asyncio.run(send_twice())


def test_a_redis_that_hangs_costs_no_more_than_the_port_allows(redis: Any, listener: Listener) -> None:
    """It is asked and never answers. Awake again it finds what it was sent, so the same message is out twice."""
    one, where = SocketIOMessenger(Options(), patience=0.3), destination(redis.messaging_url)

    async def send() -> None:
        await one.send(where, MESSAGE)
        redis.freeze()
        with pytest.raises(DeliveryRetry, match="TimeoutError"):
            await one.send(where, MESSAGE)
        redis.thaw()
        await one.send(where, MESSAGE)
        await one.aclose()

    asyncio.run(send())
    assert [listener.next()["data"] for _ in range(3)] == [json.loads(MESSAGE)] * 3


def test_a_redis_that_stays_away_is_given_up(new_redis: Callable[..., Any]) -> None:
    """What the run then ends with is a sentence that says what to look at."""
    one, where = messenger(), destination(new_redis().messaging_url)

    async def send() -> None:
        with pytest.raises(DeliveryFailed) as caught:
            await Delivery(one, where, timeout=0.3).send(MESSAGE)
        assert str(caught.value) == (
            "the gateway took no message for 0.3 s: Redis cannot be reached (ConnectionRefusedError): "
            "see that it runs where the messaging URL says"
        )
        await one.aclose()

    asyncio.run(send())


@pytest.mark.parametrize(
    ("arguments", "database"),
    [(("--rename-command", "PUBLISH", ""), "0"), ((), "99")],
    ids=["no such command", "no such database"],
)
def test_a_redis_that_answers_with_an_error_is_not_called_away(
    new_redis: Callable[..., Any], arguments: Any, database: str
) -> None:
    """The error itself may quote the message, so what is told is how to see it."""
    url = new_redis(*arguments).start().messaging_url[:-1] + database
    error = raised(messenger(), destination(url))
    assert isinstance(error, DeliveryRetry)
    assert str(error).startswith("Redis answered with an error (ResponseError)")
    assert str(error).endswith("redis-cli -u URL publish socketio test")


@pytest.mark.parametrize(
    ("arguments", "login"),
    [
        (("--requirepass", "right"), ""),
        (("--requirepass", "right"), ":wrong@"),
        (("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-publish"), ""),
    ],
    ids=["none", "wrong", "may not publish"],
)
def test_a_login_that_does_not_suffice_is_final(new_redis: Callable[..., Any], arguments: Any, login: str) -> None:
    """Trying again would not help; the run fails at once and says what to look at."""
    url = new_redis(*arguments).start().messaging_url.replace("//", f"//{login}")
    error = raised(messenger(), destination(url))
    assert isinstance(error, DeliveryRefused)
    assert "check the messaging URL's user" in str(error)


def test_a_user_that_may_publish_there_and_nothing_else_suffices(new_redis: Callable[..., Any]) -> None:
    """Name and password come with the URL."""
    redis = new_redis("--user", "shop", "on", ">right", "resetchannels", "&socketio", "-@all", "+publish").start()
    deliver(messenger(subscribers=0), destination(redis.messaging_url.replace("//", "//shop:right@")))


def certificate(folder: Path) -> Path:
    """Write a certificate for 127.0.0.1, signed by itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / "redis.pem"
    file.write_bytes(key.private_bytes(*plain) + signed.public_bytes(serialization.Encoding.PEM))
    return file


def test_tls_with_a_certificate_that_is_checked(new_redis: Callable[..., Any], tmp_path: Path) -> None:
    """`socketio+rediss`: one that nobody vouches for is no Redis of ours, one of the operator's own authority is."""
    file = str(certificate(tmp_path))
    files = ("--tls-cert-file", file, "--tls-key-file", file, "--tls-ca-cert-file", file, "--tls-auth-clients", "no")
    try:
        server = new_redis(*files, port_option="--tls-port").start()
    except RuntimeError as error:
        if os.environ.get("CI") or "tls-port" not in str(error):
            raise
        pytest.skip("this redis-server was built without TLS: apt-get install redis-server")
    url = server.messaging_url.replace("redis:", "rediss:")
    with pytest.raises(DeliveryRetry, match="SSLCertVerificationError"):
        deliver(messenger(subscribers=0), destination(url))
    deliver(messenger(subscribers=0), destination(f"{url}?ssl_ca_certs={file}"))


def test_many_runs_share_a_few_connections(redis: Any, listener: Listener) -> None:
    """More messages at once than connections: they wait for one another, and none is lost."""

    async def send() -> int:
        one = messenger(connections=3)
        await asyncio.gather(*(one.send(destination(redis.messaging_url), MESSAGE) for _ in range(100)))
        with redis_client.Redis.from_url(redis.url) as client:
            used = len(client.client_list())
        await one.aclose()
        return used

    ours_and_the_rest = asyncio.run(send())
    assert ours_and_the_rest <= 3 + 3
    assert [listener.next()["method"] for _ in range(100)] == ["emit"] * 100


@pytest.mark.parametrize("url", [None, "socketio+redis://host:port", "socketio+redis://host?no_such_option=1"])
def test_a_url_of_a_run_that_is_none_is_refused(url: str | None) -> None:
    """It was journalled before the settings changed, or the plugin's own check was not there yet."""
    assert isinstance(raised(messenger(), destination(url)), DeliveryRefused)


def test_the_doctor_says_whether_anybody_listens(redis: Any, tmp_path: Path) -> None:
    """`bf-plugin doctor --channel` publishes one message and quotes the messenger."""
    settings = {
        "BF_API_KEYS": SECRET,
        "BF_MESSAGING_URL": redis.messaging_url,
        "BF_DATABASE_URL": f"sqlite:///{tmp_path / 'journal.db'}",
    }
    done = CliRunner(env=settings).invoke(main, ["doctor", "--channel", "news"])
    assert done.exit_code == 1
    assert "0 of 1 Socket.IO servers listen on the Redis channel socketio" in done.output
    assert SECRET not in done.output


# what it is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ({"event": "connect"}, "plugins.socketio.event: Value error, is a name that Socket.IO keeps to itself"),
        ({"event": ""}, "plugins.socketio.event: "),
        ({"payload": "xml"}, "plugins.socketio.payload: "),
        ({"namespace": "chat"}, "plugins.socketio.namespace: "),
        ({"subscribers": -1}, "plugins.socketio.subscribers: "),
        ({"connections": 0}, "plugins.socketio.connections: "),
        ({"connections": "many"}, "plugins.socketio.connections: "),
        ({"redis_channel": ""}, "plugins.socketio.redis_channel: "),
        ({"rooms": "x"}, "plugins.socketio.rooms: Extra inputs are not permitted"),
    ],
)
def test_a_bad_setting_is_named(section: dict[str, Any], names: str) -> None:
    """At load, as `bf-plugin plugins` shows it."""
    with pytest.raises(ConfigurationError) as caught:
        messenger(**section)
    assert str(caught.value).startswith(names)


def context(name: str = "socketio+redis", **settings: Any) -> PluginContext:
    section = settings.get("plugins", {}).get(name, {})
    return PluginContext(name=name, section=section, settings=Settings(**settings))


def test_both_schemes_read_one_section() -> None:
    """A table of a scheme's own name wins over it."""
    plugins = {"socketio": {"event": "one", "room_prefix": "r:"}, "socketio+rediss": {"event": "two"}}
    plain, secure = (create_messenger(context(name, plugins=plugins)) for name in ("socketio+redis", "socketio+rediss"))
    frames = [json.loads(one.frame(destination(None), MESSAGE)) for one in (plain, secure)]
    assert [(frame["event"], frame["room"]) for frame in frames] == [("one", "r:news"), ("two", "r:news")]


@pytest.mark.parametrize("bad", ["socketio+redis://:s3cret@host:port/0", "socketio+redis://:s3cret@host?no_such=1"])
def test_a_messaging_url_that_is_none_is_named(bad: str) -> None:
    """By its setting, without its value, which may hold a password."""
    app = AppSettings.model_validate({"api_keys": ["BFAPI_x"], "messaging_url": bad})
    for settings, name in (
        ({"messaging_url": bad}, "BF_MESSAGING_URL"),
        ({"apps": {"shop": app}}, "apps.shop.messaging_url"),
    ):
        with pytest.raises(ConfigurationError, match=f"^{name}: is no URL of a Redis") as caught:
            create_messenger(context(**settings))
        assert "s3cret" not in str(caught.value)
    create_messenger(context("socketio+rediss", messaging_url=bad))  # the other scheme's business


def test_it_keeps_the_rules() -> None:
    """Port, requirement, load: what bf_plugin asks of every distribution."""
    assert [one.name for one in check_plugin("bf-hook-socketio")] == ["socketio+redis", "socketio+rediss"]
