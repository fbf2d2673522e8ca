"""The event loops that the plugin may run on."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable

NewLoop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: list[NewLoop] = [asyncio.new_event_loop]
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)
