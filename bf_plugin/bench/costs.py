"""What things cost in CPU: a delta, over the SDK's own loop; a request of the host app that passes through."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping

from bf_plugin.bench.figure import Effort, Figure
from bf_plugin.bench.load import Load
from bf_plugin.bench.rig import Process, Rig
from bf_plugin.bench.window import gateway_window, loop_window

_TURN = 0.1
"""Seconds for which one server is asked before it is the other's turn."""


def cost_at_full_pace(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """CPU per delta at 50 streams of 500 deltas/s, over that of the SDK's loop."""
    yield _cost(rig, effort, rate=500.0, target=0.33)


def cost_at_reading_pace(rig: Rig, effort: Effort) -> Iterator[Figure]:
    """CPU per delta at 50 streams of 30 deltas/s, over that of the SDK's loop."""
    yield _cost(rig, effort, rate=30.0, target=1.0)


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
