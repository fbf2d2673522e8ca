"""All figures by name, in the order in which `bf-plugin bench` measures them."""

from __future__ import annotations

from bf_plugin.bench import costs, growth, times
from bf_plugin.bench.figure import Measure

FIGURES: dict[str, Measure] = {
    "full-pace": costs.cost_at_full_pace,
    "reading-pace": costs.cost_at_reading_pace,
    "frontier": times.frontier,
    "first-delta": times.first_delta,
    "start": times.start,
    "stop": times.stop,
    "memory": growth.memory,
    "pass-through": costs.pass_through,
    "growth": growth.growth,
    "soak": growth.soak,
}
