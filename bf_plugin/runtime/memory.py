"""The garbage collector in a process of our own: `serve`, `worker` and `bench` call this once they are up."""

from __future__ import annotations

import gc

_YOUNG = 10_000
"""How many new objects the collector waits for. A run's messages leave no cycles, so it would find little sooner."""


def freeze_loaded() -> None:
    """Take what is loaded by now out of the garbage collector's sight.

    Otherwise it looks through some 300,000 objects (the SDK's types, mostly) again and again. Each time takes a quarter
    of a second, in which every run stands still. Only for processes of our own, because it affects the whole process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
