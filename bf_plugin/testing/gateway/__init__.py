"""A small BetterForms-style gateway: records messages, delivers them to browsers, fails on request.

Used by the tests, the demo and plugin authors. `RecordingGateway` is the WSGI application, `GatewayServer` serves it.
"""

from __future__ import annotations

from bf_plugin.testing.gateway.app import RecordingGateway
from bf_plugin.testing.gateway.record import Attempt
from bf_plugin.testing.gateway.server import GatewayServer

__all__ = ["Attempt", "GatewayServer", "RecordingGateway"]
