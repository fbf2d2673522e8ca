"""All figures: what is done for each, what is measured, against what, and what it should be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

from bf_plugin.bench.control import quantiles
from bf_plugin.bench.figure import Effort, Figure
from bf_plugin.bench.history import multiply
from bf_plugin.bench.load import Load
from bf_plugin.bench.rig import Process, Rig
from bf_plugin.bench.window import SETTLE, gateway_window, loop_window

_TURN = 0.1
"""Seconds for which a server is asked until it is the other's turn."""


Measure = Callable[[Rig, Effort], Iterator[Figure]]


def cost_at_full_pace(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """CPU per delta at 50 streams of 500 deltas/s, over that of the SDK's loop."""
    yield _cost(rig, effort, rate=500.0, target=0.33)


def cost_at_reading_pace(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """CPU per delta at 50 streams of 30 deltas/s, over that of the SDK's loop."""
    yield _cost(rig, effort, rate=30.0, target=1.0)


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


def pass_through(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """Requests of the host app with the plugin in front of it, over those without, under waitress.

    Counted for each second of CPU that the process gets: it fills its core, and how waitress's threads take turns there
    makes the requests of a second of time vary by half. The two take turns too, many in each second, since the speed of
    a machine with neighbours is another one in the next.
    """
    bare, mounted = rig.bare(), rig.gateway(database="pass")
    losses, raw = [], []
    with rig.running(bare, mounted), Load(bare.port) as alone, Load(mounted.port) as behind:
        served = {"bare": (bare, alone), "mounted": (mounted, behind)}
        _answered_per_second_of_cpu(served, 1.0)
        for _ in range(2 * effort.repetitions):
            pair = _answered_per_second_of_cpu(served, effort.seconds / 4)
            raw.append(pair)
            losses.append((1 - pair["mounted"] / pair["bare"]) * 100)
    yield Figure(
        name="requests lost in passing through",
        pace="waitress, kept-alive connections",
        value=statistics.median(losses),
        unit="%",
        spread=(min(losses), max(losses)),
        target=3.0,
        raw=raw,
    )


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


FIGURES: dict[str, Measure] = {
    "full-pace": cost_at_full_pace,
    "reading-pace": cost_at_reading_pace,
    "frontier": frontier,
    "first-delta": first_delta,
    "start": start,
    "stop": stop,
    "memory": memory,
    "pass-through": pass_through,
    "growth": growth,
    "soak": soak,
}


def _cost(rig: Rig, effort: Effort, *, rate: float, target: float) -> Figure:
    """Measure both in turn, several times: the machine's speed drifts, their ratio less so."""
    streams = effort.streams
    ratios, raw = [], []
    for number in range(effort.repetitions):
        loop = rig.loop()
        with rig.running(loop):
            theirs = loop_window(rig, loop, streams, rate, effort.seconds)
        gateway = rig.gateway(database=f"cost{rate:g}-{number}")
        with rig.running(gateway):
            ours = gateway_window(rig, gateway, streams, rate, effort.seconds)
        ratios.append(ours["us_per_delta"] / theirs["us_per_delta"])
        raw.append({"loop": theirs, "gateway": ours})
    return Figure(
        name="CPU per delta, of the SDK loop's",
        pace=f"{streams} streams at {rate:g} deltas/s",
        value=statistics.median(ratios),
        unit="x",
        spread=(min(ratios), max(ratios)),
        target=target,
        raw=raw,
    )


def _answered_per_second_of_cpu(served: Mapping[str, tuple[Process, Load]], seconds: float) -> dict[str, float]:
    """Ask processes in turn, for `seconds` each; return how many requests each answers in a second of its CPU."""
    answered, used = dict.fromkeys(served, 0), dict.fromkeys(served, 0.0)
    for _ in range(max(1, round(seconds / _TURN))):
        for name, (process, load) in served.items():
            before = process.ask("usage")["cpu"]
            answered[name] += load.press(_TURN)
            used[name] += process.ask("usage")["cpu"] - before
    return {name: answered[name] / used[name] for name in served}


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
