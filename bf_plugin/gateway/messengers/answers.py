"""What a gateway's answer to `POST /message/sendmessage` means, whichever way it was asked."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from bf_plugin.errors import DeliveryRefused, DeliveryRetry

PATH = "/message/sendmessage"

_FOR_NOW = frozenset({408, 425, 429})


def settle(status: int, retry_after: str | None = None) -> None:
    """Return for 2xx; raise DeliveryRetry for what may pass, DeliveryRefused for the rest.

    Only the status is told on: gateways echo the message, key included.
    """
    if 200 <= status < 300:
        return
    if status in _FOR_NOW or status >= 500:
        raise DeliveryRetry(f"the gateway answered {status}", retry_after=_seconds(retry_after))
    raise DeliveryRefused(f"the gateway answered {status}")


def _seconds(retry_after: str | None) -> float | None:
    """Return a `Retry-After` header, a number or a date, as seconds from now; None for one that is neither."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
