"""How long things take: a delta on its way, with more and more streams; the first delta, a start, a stop."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bf_plugin.bench.control import quantiles
from bf_plugin.bench.figure import Effort, Figure
from bf_plugin.bench.rig import Process, Rig
from bf_plugin.bench.window import SETTLE, gateway_window, loop_window


def frontier(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """Streams at 30 deltas/s: the time from the provider's bytes to the accepted message, and the CPU, as they grow.

    Where there is a target, also the time from those bytes to when the SDK's own loop has merely read them.
    """
    targets = {200: 0.060, 500: 0.150}
    for streams in effort.frontier:
        if streams in targets:
            loop = rig.loop()
            with rig.running(loop):
                theirs = loop_window(rig, loop, streams, 30.0, effort.seconds)
            yield Figure(
                name="SDK loop, read but not sent, p99",
                pace=f"{streams} streams at 30 deltas/s",
                value=theirs["took"]["p99"] * 1000,
                unit="ms",
                raw=theirs,
            )
        gateway = rig.gateway(database=f"frontier{streams}")
        with rig.running(gateway):
            window = gateway_window(rig, gateway, streams, 30.0, effort.seconds)
        took = window["sink"]["took"]
        yield Figure(
            name="added latency p99",
            pace=f"{streams} streams at 30 deltas/s",
            value=took["p99"] * 1000,
            unit="ms",
            target=targets[streams] * 1000 if streams in targets else None,
            raw=window,
        )
        if took["p99"] > 1.0:
            return


def first_delta(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """The time from the provider's first text to the accepted message that carries it, while 100 streams flow."""
    gateway = rig.gateway(database="first")
    with rig.running(gateway):
        count = round(30 * (effort.seconds + 8))
        rig.begin(rate=30.0, count=count)
        rig.start_many(gateway, 100)
        time.sleep(SETTLE)
        rig.sink.ask("reset")
        rig.provider.ask("plan", rate=30.0, count=30)
        rig.start_many(gateway, round(20 * effort.seconds), per_second=20.0)
        first = rig.sink.ask("latency")["first"]
        rig.wait_for_ends(100 + round(20 * effort.seconds))
    for name, target in (("p50", 5.0), ("p99", 20.0)):
        yield Figure(
            name=f"time to first delta {name}",
            pace="starts beside 100 streams",
            value=first[name] * 1000,
            unit="ms",
            target=target,
            raw=first,
        )


def start(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """POST to 201, the first of a process and at 50 starts/s; the provider answers at once, so all of it is ours."""
    gateway = rig.gateway(database="start")
    with rig.running(gateway):
        rig.begin(rate=30.0, count=15)
        first = rig.start(gateway).took
        rig.start_many(gateway, 49, per_second=50.0)
        count = round(50 * effort.seconds)
        took = quantiles([run.took for run in rig.start_many(gateway, count, per_second=50.0)])
        rig.wait_for_ends(count + 50)
    yield Figure(name="POST to 201", pace="first of a process", value=first * 1000, unit="ms", raw=first)
    for name, target in (("p50", 8.0), ("p99", 30.0)):
        yield Figure(
            name=f"POST to 201 {name}", pace="50 starts/s", value=took[name] * 1000, unit="ms", target=target, raw=took
        )


def stop(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """From the stop request to `end` accepted, at the driver's process and at a sibling."""
    first = rig.gateway(database="stop")
    second = rig.gateway(database="stop")
    with rig.running(first, second):
        for place, at, target in (("the same process", first, 100.0), ("another process", second, 250.0)):
            took = quantiles(_stops(rig, first, at, round(10 * effort.seconds)))
            yield Figure(
                name="stop to end p99",
                pace=f"at {place}",
                value=took["p99"] * 1000,
                unit="ms",
                target=target,
                raw=took,
            )


def _stops(rig: Rig, driver: Process, stopper: Process, count: int) -> list[float]:
    """Stop runs in mid-stream, one after the other; return how long each `end` took."""
    rig.begin(rate=30.0, count=3000)
    return [_stop(rig, driver, stopper, ended=number) for number in range(count)]


def _stop(rig: Rig, driver: Process, stopper: Process, *, ended: int) -> float:
    run = rig.start(driver)
    said = rig.sink.ask("count")["deltas"]
    rig.wait(lambda: rig.sink.ask("count")["deltas"] > said + 2)
    asked = rig.stop(stopper, run)
    rig.wait_for_ends(ended + 1)
    took: float = rig.sink.ask("ends")["ends"][run.ids["runId"]] - asked
    return took
