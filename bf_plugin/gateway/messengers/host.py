"""Messages to the host app, in-process: the messenger of zero configuration."""

from __future__ import annotations

from bf_plugin.errors import DeliveryRefused, DeliveryRetry
from bf_plugin.gateway.host import HostCaller, HostFailed
from bf_plugin.gateway.messengers.answers import PATH, settle
from bf_plugin.gateway.messengers.port import Destination, envelope


class HostMessenger:
    """Posts to the host app through `caller`, which is not closed here: asking for keys shares it."""

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
