"""The browsers' side: each message to the subscribers of its channels, as server-sent events.

As lossy as a socket on purpose: a browser gets what is sent while it is connected. Only one that says what it saw last
(`Last-Event-ID`, which EventSource sends by itself when it reconnects) is given what came after.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

_KEPT = 2000
_HEARTBEAT = 1.0


class Channels:
    """All channels and who listens. Messages are numbered over all channels."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._log: deque[tuple[int, frozenset[str], bytes]] = deque(maxlen=_KEPT)
        self._last = 0
        self._subscribers: list[frozenset[str]] = []
        self._closed = False

    def publish(self, channels: Iterable[str], message: bytes) -> None:
        """Send the JSON text of a message to everyone who listens to one of `channels`."""
        with self._changed:
            self._last += 1
            self._log.append((self._last, frozenset(channels), message))
            self._changed.notify_all()

    def subscribe(
        self, channels: Iterable[str], last_id: int | None = None, gone: Callable[[], bool] = lambda: False
    ) -> Subscription:
        """Return the event stream of `channels`, from `last_id` (exclusive) or from now on, until `gone()`."""
        with self._changed:
            wanted = frozenset(channels)
            self._subscribers.append(wanted)
            self._changed.notify_all()
            # An id of another life of this server is ahead of ours: nothing to replay.
            start = self._last if last_id is None else min(last_id, self._last)
            return Subscription(self, wanted, start, gone)

    def wait_for_subscribers(self, count: int, timeout: float) -> None:
        """Block until `count` browsers listen; TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._subscribers) >= count, timeout):
                raise TimeoutError(f"{len(self._subscribers)} of {count} browsers connected within {timeout} s")

    def close(self) -> None:
        """End all event streams."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def active(self) -> list[str]:
        """Return the channels somebody listens to."""
        with self._changed:
            return sorted(frozenset().union(*self._subscribers))

    def unsubscribe(self, channels: frozenset[str]) -> None:
        """Count a subscriber of `channels` out."""
        with self._changed:
            self._subscribers.remove(channels)

    def after(self, seen: int, channels: frozenset[str]) -> tuple[int, bytes] | None:
        """Return the next events for `channels` after `seen`, nothing yet after a heartbeat's time, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._last > seen, _HEARTBEAT)
            if self._closed:
                return None
            fresh = [entry for entry in self._log if entry[0] > seen and entry[1] & channels]
            events = b"".join(b"id: %d\ndata: %b\n\n" % (number, data) for number, _, data in fresh)
            return self._last, events


class Subscription:
    """A WSGI body: one browser's event stream. It holds a server thread for as long as the browser is connected."""

    def __init__(self, hub: Channels, channels: frozenset[str], seen: int, gone: Callable[[], bool]) -> None:
        self._hub = hub
        self._channels = channels
        self._seen = seen
        self._gone = gone
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 250\n: connected\n\n"
        while not self._gone() and (news := self._hub.after(self._seen, self._channels)) is not None:
            self._seen, events = news
            yield events or b": still here\n\n"

    def close(self) -> None:
        """Leave the hub; WSGI servers call this once, also for a body they never started."""
        if not self._closed:
            self._closed = True
            self._hub.unsubscribe(self._channels)
