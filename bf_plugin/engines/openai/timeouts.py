"""How long the engine waits for what; tests make it short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Times in seconds.

    `silence` is the longest time without a real event before the connection of a response that can be resumed counts as
    lost. `long_silence` is that of any other, and of an answer's head: models on a machine of one's own, and those that
    reason, may say nothing for minutes. `resume_waits` come before each attempt in a row that brings nothing new,
    `lock_waits` before each new try at a locked conversation. A background response is polled until it ends, every
    `poll` seconds; another at most `foreground_polls` times.
    """

    silence: float = 60.0
    long_silence: float = 300.0
    poll: float = 2.0
    poll_failures: int = 5
    foreground_polls: int = 3
    resume_waits: tuple[float, ...] = (0.0, 1.0, 3.0)
    lock_waits: tuple[float, ...] = (1.0, 2.0, 4.0)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
