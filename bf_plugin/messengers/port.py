"""The promised path of the port of messengers; the code is in `bf_plugin.gateway.messengers`."""

from __future__ import annotations

from bf_plugin.gateway.messengers import Destination, Messenger, envelope, scheme_of

__all__ = ["Destination", "Messenger", "envelope", "scheme_of"]
