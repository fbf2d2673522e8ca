"""What a process of our own does about its memory."""

from __future__ import annotations

import gc

_YOUNG = 10_000
"""How many new objects are looked through at a time. A run's messages leave no cycles, so there is little to find."""


def settle() -> None:
    """Take what is loaded by now out of the garbage collector's sight.

    Else it looks through some 300,000 objects (the SDK's types, mostly) again and again, a quarter of a second at a
    time, in which every run stands still. For processes of our own only: it is the whole process's matter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
