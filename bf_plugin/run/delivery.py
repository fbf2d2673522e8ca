"""Getting one message to the gateway: the same bytes until they are accepted, or given up."""

from __future__ import annotations

import asyncio
import random

from bf_plugin.errors import DeliveryError, DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.messengers.port import Destination, Messenger

PATIENCE = 30.0
"""Seconds after a first failure until a message is given up."""


class DeliveryFailed(DeliveryError):
    """A message was given up; nothing more of its run will be sent."""


class Delivery:
    """Sends the messages of one run, one at a time."""

    def __init__(self, messenger: Messenger, destination: Destination, *, patience: float = PATIENCE) -> None:
        self._messenger = messenger
        self._destination = destination
        self._patience = patience

    async def send(self, body: bytes) -> None:
        """Return once the gateway has accepted `body`. Raises DeliveryFailed."""
        give_up: float | None = None
        attempt = 0
        while True:
            try:
                return await self._messenger.send(self._destination, body)
            except DeliveryRefused as error:
                raise DeliveryFailed(f"the gateway refused a message: {error}") from None
            except DeliveryRetry as error:
                now = asyncio.get_running_loop().time()
                give_up = give_up or now + self._patience
                pause = max(_backoff(attempt), error.retry_after or 0.0)
                if now + pause > give_up:
                    raise DeliveryFailed(f"the gateway took no message for {self._patience:g} s: {error}") from None
                attempt += 1
                await asyncio.sleep(pause)


def _backoff(attempt: int) -> float:
    """Return seconds to wait, doubling from 0.1 to 3, with jitter so that runs do not knock in step."""
    return min(0.1 * 2.0 ** min(attempt, 6), 3.0) * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
