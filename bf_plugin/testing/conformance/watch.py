"""Seeing a function block: what it calls that waits for something else.

CPython tells audit hooks (PEP 578) of sockets, files, processes and databases as they are opened, however they are
reached. It does not tell of waiting on a lock or a queue, nor of reading what is open already, and of `time.sleep`
only from Python 3.13 on; before, it is seen where it is called through its module. What is missed here is seen by
the time it takes, if it takes long.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import Any
from unittest import mock

BLOCKING = frozenset(
    {
        "open",
        "os.listdir",
        "os.posix_spawn",
        "os.scandir",
        "os.system",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyaddr",
        "socket.gethostbyname",
        "socket.sendmsg",
        "socket.sendto",
        "sqlite3.connect",
        "subprocess.Popen",
        "time.sleep",
        "urllib.Request",
    }
)
"""Audit events of what waits for a disk, a network, a process or a clock (docs.python.org, "Audit events table")."""

_watched = threading.local()


class Watch:
    """Notes in `seen` what blocks in this thread while it is entered."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._sleep = mock.patch.object(time, "sleep", self._noted(time.sleep))

    def __enter__(self) -> Watch:
        _install()
        _watched.by = self
        self._sleep.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sleep.stop()
        _watched.by = None

    def _noted(self, sleep: Any) -> Any:
        @functools.wraps(sleep)
        def noted(seconds: float) -> None:
            _heard("time.sleep", ())
            sleep(seconds)

        return noted


@functools.cache
def _install() -> None:
    """Install the hook, once: there is no way to take one back."""
    sys.addaudithook(_heard)


def _heard(event: str, _: tuple[Any, ...]) -> None:
    if event in BLOCKING and (watch := getattr(_watched, "by", None)) is not None:
        watch.seen.add(event)
