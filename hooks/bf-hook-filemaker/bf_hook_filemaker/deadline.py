"""The time a call may take, from waiting for a place to the last byte of the answer."""

from __future__ import annotations

import time


class Deadline:
    """`seconds` from now on."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, 0 when there are none."""
        return max(self._end - time.monotonic(), 0.0)
