"""A stretch of time in which streams flow, and what was used and took place in it."""

from __future__ import annotations

import time
from typing import Any

from bf_plugin.bench.rig import BenchError, Process, Rig

SETTLE = 0.5
"""Seconds between the last start and the beginning of a measurement."""


def gateway_window(rig: Rig, gateway: Process, streams: int, rate: float, seconds: float) -> dict[str, Any]:
    """Let so many runs flow; measure from when all have started to when the first ends."""
    starting = 2.0 + streams / 50
    rig.begin(rate=rate, count=round(rate * (starting + SETTLE + seconds + 1)))
    rig.start_many(gateway, streams)
    rig.wait(lambda: rig.provider.ask("count")["begun"] >= streams)
    time.sleep(SETTLE)
    rig.provider.ask("reset")
    rig.sink.ask("reset")
    before = gateway.ask("usage")
    time.sleep(seconds)
    sink, provider, after = rig.sink.ask("latency"), rig.provider.ask("count"), gateway.ask("usage")
    if not sink["deltas"]:
        raise BenchError("no text came through")
    if sink["ended"]:
        raise BenchError("streams ended before they were measured: the machine is too slow for so many starts")
    rig.wait_for_ends(streams)
    cpu = after["cpu"] - before["cpu"]
    threads = {name: spent - before["threads"].get(name, 0.0) for name, spent in after["threads"].items()}
    return {
        "us_per_delta": cpu / sink["deltas"] * 1e6,
        "us_by_thread": {name: spent / sink["deltas"] * 1e6 for name, spent in threads.items() if spent > 0},
        "busy": cpu / (after["at"] - before["at"]),
        "deltas_per_message": sink["deltas"] / sink["messages"],
        "sink": sink,
        "provider": provider,
    }


def loop_window(rig: Rig, loop: Process, streams: int, rate: float, seconds: float) -> dict[str, Any]:
    """Let the SDK's loop read so many streams; measure once all have begun."""
    rig.begin(rate=rate, count=round(rate * (seconds + 60)))
    loop.ask("read", streams=streams)
    rig.wait(lambda: rig.provider.ask("count")["begun"] >= streams)
    time.sleep(SETTLE + 1)
    before = loop.ask("usage")
    time.sleep(seconds)
    after = loop.ask("usage")
    cpu, deltas = after["cpu"] - before["cpu"], after["deltas"] - before["deltas"]
    busy = cpu / (after["at"] - before["at"])
    return {"us_per_delta": cpu / deltas * 1e6, "busy": busy, "deltas": deltas, "took": after["took"]}
