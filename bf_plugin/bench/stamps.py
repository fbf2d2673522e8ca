"""Text that says when it was sent: how the provider and the sink, two processes, measure what lies between them."""

from __future__ import annotations

import re
import time

LENGTH = 21
"""Characters of a stamp: a mark, 19 digits, a space."""

_STAMP = re.compile(rb"([!.])(\d{19}) ")


def stamp(*, first: bool) -> bytes:
    """Return the present time as text; the first of a stream is marked. The clock is the machine's, not a process's."""
    return b"%c%019d " % (b"!" if first else b".", time.monotonic_ns())


def since(text: str) -> float:
    """Return the seconds since a stamp was made."""
    return (time.monotonic_ns() - int(text[1:20])) / 1e9


def read_stamps(body: bytes) -> list[tuple[bool, int]]:
    """Return (is first, nanoseconds) of every stamp in a message."""
    return [(mark == b"!", int(digits)) for mark, digits in _STAMP.findall(body)]
