"""Keeps what must not be said out of the text of runs, and runs, tokens and cost within limits. See README.md.

`create` is called by `bf_plugin`, through the entry point `guard`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bf_hook_guard.limits import Limits
from bf_hook_guard.plugin import Guard, Limiter, PatientGuard
from bf_hook_guard.settings import load, scanners
from bf_plugin import PluginContext

__all__ = ["create"]


def create(context: PluginContext, *, now: Callable[[], float] = time.time) -> Limiter:
    """Make the plugin; `now` is the clock of limits. Raises ConfigurationError that names what is wrong."""
    settings = load(context.section)
    limits = Limits(settings.limits, settings.prices, context.store, now=now)
    by_app, others = scanners(settings)
    if not settings.rules:
        return Limiter(limits)
    return (PatientGuard if settings.in_thread else Guard)(limits, by_app, others)
