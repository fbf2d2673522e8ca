"""The port between the outbox and the gateway's messaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec


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
