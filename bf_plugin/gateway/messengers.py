"""Messengers bring messages to the gateway: the port, what an answer means, and the one that calls the host app.

The outbox calls them; distributions add more in the group `bf_plugin.messengers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from bf_plugin.errors import DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.host import HostCaller, HostFailed
from bf_plugin.runtime.text import retry_after_seconds

PATH = "/message/sendmessage"

_FOR_NOW = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a run's messages go, fixed at its start and journalled.

    `url` is the operator's messaging URL; `host_environ` instead holds what a call of the host app needs
    (host, scheme, script name).
    """

    app: str
    api_key: str = field(repr=False)
    channels: Sequence[str]
    url: str | None = None
    host_environ: Mapping[str, Any] | None = None


class Messenger(Protocol):
    """Delivers messages; serves all runs of a process, on the plugin's event loop."""

    async def send(self, destination: Destination, message: bytes) -> None:
        """Deliver `message`, the JSON text of `{"actions": [...]}`; the same arguments give the same bytes.

        Raises DeliveryRetry when the outcome is in doubt or bad for now, DeliveryRefused when it is final. Takes at
        most 5 s.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


def scheme_of(url: str) -> str:
    """Return the scheme of a messaging URL, by which its messenger is found; empty where it has none."""
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


_encode = msgspec.json.Encoder().encode


def envelope(destination: Destination, message: bytes) -> bytes:
    """Return the body of `POST /message/sendmessage`: key, channels and the message, never to be logged."""
    key, channels = _encode(destination.api_key), _encode(list(destination.channels))
    return b'{"apiKey":' + key + b',"channels":' + channels + b',"message":' + message + b"}"


def settle(status: int, retry_after: str | None = None) -> None:
    """Return for an answer of 2xx; raise DeliveryRetry for one that may pass, DeliveryRefused for the rest.

    Only the status is told on: gateways echo the message, key included.
    """
    if 200 <= status < 300:
        return
    if status in _FOR_NOW or status >= 500:
        raise DeliveryRetry(f"the gateway answered {status}", retry_after=retry_after_seconds(retry_after))
    raise DeliveryRefused(f"the gateway answered {status}")


class HostMessenger:
    """Posts to the host app, in-process: the messenger of zero configuration. It does not close `caller`: asking for
    keys shares that.
    """

    def __init__(self, caller: HostCaller) -> None:
        self._caller = caller

    async def send(self, destination: Destination, message: bytes) -> None:
        """Deliver one message. Raises DeliveryRetry or DeliveryRefused."""
        if destination.host_environ is None:
            raise DeliveryRefused("the destination is no host app")
        try:
            answer = await self._caller.call_async(PATH, envelope(destination, message), destination.host_environ)
        except HostFailed as error:
            raise DeliveryRetry(str(error)) from None
        settle(answer.status, answer.headers.get("retry-after"))

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""
