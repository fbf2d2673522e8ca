"""The gateway's end of the wire: messages fly, arrive, are answered or not, as a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from bf_plugin.errors import DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.messengers import Destination
from simulated.clock import live
from simulated.driving import DRIVING, Driver

_TIMEOUT = 5.0


@dataclass(slots=True, eq=False)
class Sending:
    """One message on the wire, once for each try."""

    driver: Driver
    body: bytes
    answer: asyncio.Future[None]
    arrived: bool = False

    @property
    def waits(self) -> bool:
        return not self.answer.done()


@dataclass(slots=True)
class Gateway:
    """What arrived, in order, and what flies. While it is `slow`, a test settles each message."""

    slow: bool = False
    arrivals: list[bytes] = field(default_factory=list)
    flying: list[Sending] = field(default_factory=list)

    def settle(self, sending: Sending, how: str) -> None:
        """Let a message arrive or not, and its sender hear of it or not."""
        if how in ("accept", "arrive", "arrive and fail") and not sending.arrived:
            sending.arrived = True
            self.arrivals.append(sending.body)
        if how == "arrive":
            return  # the answer may still come
        self.flying.remove(sending)
        if not sending.waits:
            return
        if how == "accept":
            sending.answer.set_result(None)
        else:
            refused = DeliveryRefused("404") if how == "refuse" else DeliveryRetry("503")
            sending.answer.set_exception(refused)


class Wire:
    """The messenger: what all processes reach the gateway by."""

    def __init__(self, gateway: Gateway, sending: Callable[[Sending], None]) -> None:
        self._gateway = gateway
        self._sending = sending

    async def send(self, destination: Destination, message: bytes) -> None:
        await live()
        driver = DRIVING.get()
        assert driver is not None
        sending = Sending(driver, message, asyncio.get_running_loop().create_future())
        self._sending(sending)
        self._gateway.flying.append(sending)
        try:
            await asyncio.wait_for(sending.answer, _TIMEOUT)
        except asyncio.TimeoutError:
            raise DeliveryRetry("no answer in time") from None

    async def aclose(self) -> None:
        pass
