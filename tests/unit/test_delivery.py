"""Delivery of one message: the same bytes until it is accepted or given up."""

from __future__ import annotations

import asyncio

import pytest

from bf_plugin.errors import DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.messengers import Destination
from bf_plugin.run.outbox import Delivery, DeliveryFailed

DESTINATION = Destination(app="a", api_key="BFAPI_secret", channels=["c"])


class Gateway:
    """Answers with each of `answers`, then accepts."""

    def __init__(self, *answers: Exception) -> None:
        self._answers = list(answers)
        self.bodies: list[bytes] = []

    async def send(self, destination: Destination, message: bytes) -> None:
        self.bodies.append(message)
        if self._answers:
            raise self._answers.pop(0)

    async def aclose(self) -> None:
        pass


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


def test_what_is_in_doubt_is_sent_again(pauses: list[float]) -> None:
    """The same bytes, after growing pauses, not sooner than the gateway asks."""
    gateway = Gateway(*[DeliveryRetry("503") for _ in range(3)], DeliveryRetry("429", retry_after=7.0))

    asyncio.run(Delivery(gateway, DESTINATION).send(b"body"))

    assert gateway.bodies == [b"body"] * 5
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3] == 7.0


def test_a_refusal_is_final(pauses: list[float]) -> None:
    """No second try."""
    gateway = Gateway(DeliveryRefused("404"))

    with pytest.raises(DeliveryFailed, match="404"):
        asyncio.run(Delivery(gateway, DESTINATION).send(b"body"))

    assert (len(gateway.bodies), pauses) == (1, [])


def test_patience_ends(pauses: list[float]) -> None:
    """A gateway that asks for more time than there is is not waited for."""
    gateway = Gateway(DeliveryRetry("429", retry_after=31.0))

    with pytest.raises(DeliveryFailed, match="30 s") as caught:
        asyncio.run(Delivery(gateway, DESTINATION).send(b"body"))

    assert pauses == []
    assert "BFAPI_" not in str(caught.value)
