"""What grows: memory with the runs under way, memory over time, times and CPU with the runs on record."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from bf_plugin.bench.control import quantiles
from bf_plugin.bench.figure import Effort, Figure
from bf_plugin.bench.history import multiply
from bf_plugin.bench.rig import Rig
from bf_plugin.bench.window import gateway_window


def memory(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """Resident memory per active run, with 500 of them."""
    gateway = rig.gateway(database="memory")
    streams = 500
    with rig.running(gateway):
        rig.begin(rate=30.0, count=60)
        rig.start_many(gateway, 100)  # what is loaded and cached once is not a run's
        rig.wait_for_ends(100)
        before = gateway.ask("collect")["rss"]
        seconds = max(effort.seconds, 10.0)
        rig.begin(rate=2.0, count=round(2 * seconds))
        rig.start_many(gateway, streams)
        time.sleep(seconds / 3)
        during = gateway.ask("usage")["rss"]
        rig.wait_for_ends(streams)
    yield Figure(
        name="memory per active run",
        pace=f"{streams} runs",
        value=(during - before) / streams / 1024,
        unit="KB",
        target=50.0,
        raw={"before": before, "during": during},
    )


def soak(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """Short runs one after the other, as many as come to their end: does memory grow?"""
    gateway = rig.gateway(database="soak")
    samples: list[tuple[int, int]] = []
    with rig.running(gateway):
        rig.begin(rate=200.0, count=2)
        runs, began = 0, time.monotonic()
        while (elapsed := time.monotonic() - began) < effort.soak_seconds or len(samples) < 3:
            rig.start_many(gateway, 2 * effort.streams)
            runs += 2 * effort.streams
            if elapsed > effort.soak_seconds / 5:  # until then caches fill
                rig.wait_for_ends(runs)
                samples.append((runs, gateway.ask("collect")["rss"]))
        rig.wait_for_ends(runs)
    slope = statistics.linear_regression(*zip(*samples, strict=True)).slope
    yield Figure(
        name="growth of memory",
        pace=f"{runs} runs in {elapsed:.0f} s",
        value=slope * 100_000 / 2**20,
        unit="MB per 100,000 runs",
        target=5.0,
        raw=samples,
    )


def growth(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """A start and CPU per delta with more and more ended runs in the journal."""
    gateway = rig.gateway(database="growth")
    with rig.running(gateway):
        rig.begin(rate=200.0, count=15)
        first = rig.start(gateway)
        rig.wait_for_ends(1)
        done = 1
        for history in effort.history:
            if history > done:
                multiply(rig.url_of("growth"), first.ids["runId"], range(done, history))
                done = history
            rig.begin(rate=30.0, count=15)
            took = quantiles([run.took for run in rig.start_many(gateway, 100, per_second=50.0)])
            rig.wait_for_ends(100)
            window = gateway_window(rig, gateway, effort.streams, 30.0, effort.seconds / 2)
            yield Figure(
                name="POST to 201 p50",
                pace=f"{done:,} ended runs on record",
                value=took["p50"] * 1000,
                unit="ms",
                raw={"start": took, "window": window},
            )
            yield Figure(
                name="CPU per delta",
                pace=f"{done:,} ended runs on record",
                value=window["us_per_delta"],
                unit="us",
                raw=window,
            )
            done += 100 + effort.streams
