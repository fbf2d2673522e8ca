"""How the measuring process talks to those it started: lines of JSON over their standard input and output."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

Command = Callable[[str, dict[str, Any]], dict[str, Any]]


class Cpu:
    """What this process uses from now on."""

    def __init__(self) -> None:
        self._cpu, self._wall = cpu_seconds(), time.monotonic()

    def since(self) -> dict[str, float]:
        """Return seconds of CPU, and the share of one core that is."""
        cpu, wall = cpu_seconds() - self._cpu, time.monotonic() - self._wall
        return {"cpu": cpu, "busy": cpu / wall if wall else 0.0}


def cpu_seconds() -> float:
    """Return the CPU time this process has used, all its threads together (getrusage)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def quantiles(values: Sequence[float] | Any) -> dict[str, float]:
    """Return median, p90, p99 and maximum, zeros for nothing."""
    ordered = sorted(values)
    if not ordered:
        return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
    last = len(ordered) - 1
    at = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: ordered[round(share * last)] for name, share in at.items()}


def pin(core: int | None) -> None:
    """Keep this process on one core (-1: on all others but the first), where the system has such a thing."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    rest = cores - {min(cores)}
    os.sched_setaffinity(0, {core} if core >= 0 else rest or cores)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's loop, on uvloop where that is installed, as the plugin does."""
    if importlib.util.find_spec("uvloop"):
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


async def serve_commands(protocol: Callable[[], asyncio.Protocol], command: Command) -> None:
    """Listen with `protocol` on a free port, say which, and obey until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=4096)
    say({"port": server.sockets[0].getsockname()[1]})
    ended = asyncio.Event()

    def obey(line: dict[str, Any]) -> None:
        say(command(line.pop("command"), line))

    def listen() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(obey, msgspec.json.decode(line))
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    await ended.wait()
    server.close()


def say(answer: dict[str, Any]) -> None:
    """Answer the measuring process."""
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
