"""What goes wrong at the gateway, on request."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["status", "delay", "hang", "drop", "duplicate"]


@dataclass(slots=True)
class Fault:
    """One way to fail; `left` is how often it still strikes, None for ever."""

    kind: Kind
    value: float | tuple[float, float] | None
    left: int | None
    chance: float
    delivered: bool


class Faults:
    """The active faults. Each message meets all of them, in the order they were set."""

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - tests want it reproducible
        self._faults: list[Fault] = []
        self._released = threading.Event()

    def add(self, fault: Fault) -> None:
        """Let `fault` strike from now on."""
        with self._lock:
            if fault.kind == "hang":
                self._released.clear()
            self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults and let hanging requests go on."""
        with self._lock:
            self._faults.clear()
        self._released.set()

    def release(self) -> None:
        """Let hanging requests go on."""
        self._released.set()

    def hang(self, timeout: float) -> None:
        """Block the calling server thread until released."""
        self._released.wait(timeout)

    def strike(self) -> list[Fault]:
        """Return the faults the next message meets."""
        with self._lock:
            struck = [fault for fault in self._faults if self._random.random() < fault.chance]
            for fault in struck:
                if fault.left is not None:
                    fault.left -= 1
            self._faults = [fault for fault in self._faults if fault.left is None or fault.left > 0]
            return struck

    def value(self, fault: Fault) -> float:
        """Return the fault's value, or a random one within its range."""
        if isinstance(fault.value, tuple):
            with self._lock:
                return self._random.uniform(*fault.value)
        return float(fault.value or 0)
