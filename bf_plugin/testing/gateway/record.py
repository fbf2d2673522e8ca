"""What arrived at the gateway, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_LOOK_AGAIN = 0.05


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One authorised, well-formed `POST /message/sendmessage`; times are `time.monotonic()` seconds.

    `status` and `answered_at` are None while it has no answer, `status` 0 when the connection was dropped. `delivered`
    says whether browsers got it, which a caller that saw no answer cannot know.
    """

    at: float
    body: bytes = field(repr=False)
    channels: list[str] = field(repr=False)
    actions: list[dict[str, Any]] = field(repr=False)
    delivered: bool = False
    status: int | None = None
    answered_at: float | None = None


class Record:
    """All attempts, for threads to append to and to wait on."""

    def __init__(self) -> None:
        # Held while predicates run: they read the record again, so it must be re-entrant.
        self._changed = threading.Condition(threading.RLock())
        self._attempts: list[Attempt] = []
        self._delivered: list[Attempt] = []

    def arrived(self, attempt: Attempt) -> None:
        """Note an attempt before anything else happens to it."""
        with self._changed:
            self._attempts.append(attempt)
            self._changed.notify_all()

    def delivered(self, attempt: Attempt) -> None:
        """Note that browsers were sent the message."""
        with self._changed:
            attempt.delivered = True
            self._delivered.append(attempt)
            self._changed.notify_all()

    def answered(self, attempt: Attempt, status: int) -> None:
        """Note the answer; status 0 is a dropped connection."""
        with self._changed:
            attempt.status = status
            attempt.answered_at = time.monotonic()
            self._changed.notify_all()

    def attempts(self) -> list[Attempt]:
        """Return everything that arrived, in order of arrival."""
        with self._changed:
            return list(self._attempts)

    def deliveries(self) -> list[Attempt]:
        """Return what browsers were sent, in that order."""
        with self._changed:
            return list(self._delivered)

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._attempts.clear()
            self._delivered.clear()

    def wait_for(self, predicate: Callable[[], T], timeout: float) -> T:
        """Return the first true value of `predicate`; TimeoutError after `timeout` s.

        It is asked after each change, and now and then without one: it may look at other things too.
        """
        give_up = time.monotonic() + timeout
        while not (value := predicate()):
            with self._changed:
                left = give_up - time.monotonic()
                if left <= 0:
                    seen = [
                        (attempt.status, [action.get("name") for action in attempt.actions])
                        for attempt in self._attempts
                    ]
                    raise TimeoutError(f"not seen at the gateway within {timeout} s; (status, actions) so far: {seen}")
                self._changed.wait(min(left, _LOOK_AGAIN))
        return value
