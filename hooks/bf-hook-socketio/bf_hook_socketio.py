"""A messenger for gateways whose browsers sit on Socket.IO: each message is published in the Redis its servers share.

What is published is what the managers of python-socketio publish for `emit`, so every server with a `RedisManager` or
an `AsyncRedisManager` on that Redis takes it to the browsers in the rooms. It is published here rather than by a
manager, because those log a lost Redis and return as if all were well (python-socketio, async_redis_manager.py).
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from bf_plugin import PluginContext
from bf_plugin.errors import ConfigurationError, DeliveryError, DeliveryRefused, DeliveryRetry
from bf_plugin.messengers.port import Destination

SECTION = "socketio"

_PREFIX = "socketio+"
_PATIENCE = 5.0
"""Seconds a delivery may take, as the port has it."""

_RESERVED = frozenset({"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"})
_NOT_ALLOWED = (AuthenticationError, AuthorizationError, NoPermissionError)

_encode = msgspec.json.Encoder().encode


def _not_reserved(event: str) -> str:
    if event in _RESERVED:
        raise ValueError("is a name that Socket.IO keeps to itself")
    return event


class Options(BaseModel):
    """The section `[plugins.socketio]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    event: Annotated[str, Field(min_length=1), AfterValidator(_not_reserved)] = "message"
    """The event that browsers listen for."""
    payload: Literal["message", "envelope"] = "message"
    """What comes with it: the message, `{"actions": [...]}`, or `{"channels": [...], "message": {...}}`."""
    namespace: Annotated[str, Field(pattern="^/")] = "/"
    room_prefix: str = ""
    """What the gateway puts before a channel's name to make the name of its room."""
    redis_channel: Annotated[str, Field(min_length=1)] = "socketio"
    """The `channel` of the servers' manager."""
    subscribers: Annotated[int, Field(ge=0)] = 1
    """How many servers must take a message for it to count as delivered; 0 leaves it to chance."""
    connections: Annotated[int, Field(ge=1)] = 20
    """The most connections to one Redis."""


class SocketIOMessenger:
    """Publishes each message once, for all of its channels. Implements the port's Messenger."""

    def __init__(self, options: Options, *, patience: float = _PATIENCE) -> None:
        self._options = options
        self._patience = patience
        self._clients: dict[str, Redis] = {}
        # Servers drop what carries their own id, and ids are only ever compared.
        self._tail = b',"host_id":' + _encode(uuid.uuid4().hex) + b"}"

    async def send(self, destination: Destination, message: bytes) -> None:
        """Return once Redis has handed the message to the servers. Raises DeliveryRetry or DeliveryRefused."""
        client = self._client(destination.url or "")
        publishing = client.publish(self._options.redis_channel, self.frame(destination, message))
        try:
            servers = await asyncio.wait_for(publishing, self._patience)
        except (RedisError, OSError, asyncio.TimeoutError) as error:
            raise self._problem(error) from None
        self._check(servers)

    def frame(self, destination: Destination, message: bytes) -> bytes:
        """Return what a manager publishes for `emit`: JSON, `data` being the event's one argument.

        Newer managers put `data` into a list and older ones do not; what is no list is taken as it is by all.
        """
        rooms = [self._options.room_prefix + channel for channel in destination.channels]
        data = message
        if self._options.payload == "envelope":
            data = b'{"channels":' + _encode(list(destination.channels)) + b',"message":' + message + b"}"
        head = {"method": "emit", "event": self._options.event, "namespace": self._options.namespace}
        rest = {"room": rooms[0] if len(rooms) == 1 else rooms, "skip_sid": None, "callback": None, "binary": False}
        return _encode({**head, **rest})[:-1] + b',"data":' + data + self._tail

    async def aclose(self) -> None:
        """Close the connections."""
        while self._clients:
            await self._clients.popitem()[1].aclose()

    def _problem(self, error: Exception) -> DeliveryError:
        """Return what redis-py's error means. Never its text, which may quote the address or the message."""
        # Where redis-py wraps what the system said, that is more telling: ConnectionRefusedError, gaierror, SSLError.
        kind = type(error.__context__ if isinstance(error.__context__, OSError) else error).__name__
        if isinstance(error, _NOT_ALLOWED):
            return DeliveryRefused(f"Redis does not let us publish ({kind}): check the messaging URL's user")
        if isinstance(error, ResponseError):
            trial = f"redis-cli -u URL publish {self._options.redis_channel} test"
            return DeliveryRetry(f"Redis answered with an error ({kind}), which this will show: {trial}")
        return DeliveryRetry(f"Redis cannot be reached ({kind}): see that it runs where the messaging URL says")

    def _check(self, servers: int) -> None:
        """Raise DeliveryRetry where fewer servers than there are took it: Redis keeps nothing for those to come."""
        if servers < self._options.subscribers:
            heard = f"{servers} of {self._options.subscribers} Socket.IO servers"
            advice = "see that they run, and use the messaging URL's Redis"
            raise DeliveryRetry(f"{heard} listen on the Redis channel {self._options.redis_channel}: {advice}")

    def _client(self, url: str) -> Redis:
        if url not in self._clients:
            try:
                self._clients[url] = Redis.from_pool(_pool(url, self._options.connections))
            except ValueError:  # its text quotes the URL
                raise DeliveryRefused("the messaging URL is not valid") from None
        return self._clients[url]


def create_messenger(context: PluginContext) -> SocketIOMessenger:
    """Return the messenger; the entry points `socketio+redis` and `socketio+rediss` name this.

    Both read `[plugins.socketio]`, and a table of their own name over it. Raises ConfigurationError that names what is
    wrong with them, or with a messaging URL of theirs.
    """
    settings = context.settings
    common = settings.plugins.get(SECTION, {}) if settings else {}
    options = _options({**common, **context.section})
    urls = {"BF_MESSAGING_URL": settings.messaging_url} if settings else {}
    urls |= {
        f"apps.{name}.messaging_url": app.messaging_url for name, app in (settings.apps if settings else {}).items()
    }
    for setting, url in urls.items():
        if url is not None and url.startswith(f"{context.name}:"):
            _check_url(setting, url)
    return SocketIOMessenger(options)


def _options(section: Mapping[str, Any]) -> Options:
    try:
        return Options.model_validate(dict(section))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise ConfigurationError("; ".join(f"plugins.{SECTION}.{problem}" for problem in problems)) from None


def _check_url(setting: str, url: str) -> None:
    try:
        _pool(url, 1)
    except ValueError:
        example = "socketio+redis://user:password@host:6379/0"
        raise ConfigurationError(f"{setting}: is no URL of a Redis: write {example}, or socketio+rediss://") from None


def _pool(url: str, connections: int) -> BlockingConnectionPool:
    """Return the connections to a Redis, none of them open. Nothing is tried twice here: the core does that.

    Raises ValueError for what is no URL of a Redis.
    """
    pool = BlockingConnectionPool.from_url(
        url.removeprefix(_PREFIX),
        max_connections=connections,
        timeout=_PATIENCE,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=_PATIENCE,
    )
    try:
        # Unconnected: it is here that unknown options of the URL show.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, RedisError) as error:
        raise ValueError("an option of the URL is not known or not valid") from error
    return pool
