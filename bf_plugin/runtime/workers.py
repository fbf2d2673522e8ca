"""Bounded pools of threads for blocking code that is not ours: hooks, tools, calls of the host app."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from bf_plugin.runtime.turns import Turns

T = TypeVar("T")


class Workers:
    """A pool of daemon threads that survives jobs which never come back.

    `concurrent.futures` would do, but for two things. The interpreter joins its threads at the exit, so one stuck tool
    would keep the server from stopping; and a stuck thread is lost to it for ever. Here a job can be abandoned: its
    thread counts as lost and another may take its place, up to `lost_limit`; after that, jobs queue. A lost thread that
    comes back works on.
    """

    def __init__(self, name: str, *, limit: int, lost_limit: int = 32) -> None:
        self.name = name
        self.limit = limit
        self.lost_limit = lost_limit
        self._changed = threading.Condition()  # guards everything below
        self._jobs: Turns[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = Turns()
        self._running: set[Future[Any]] = set()
        self._lost: set[Future[Any]] = set()
        self._alive = 0
        self._idle = 0
        self._started = 0
        self._closed = False

    def submit(self, function: Callable[..., T], *args: Any, owner: str = "") -> Future[T]:
        """Call `function(*args)` in one of the threads, as soon as one is free and it is its owner's turn.

        Raises RuntimeError after `close`.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"{self.name} threads are closed")
            self._jobs.put(owner, (future, function, args))
            self._staff()
            self._changed.notify()
        return future

    def abandon(self, future: Future[Any]) -> None:
        """Give up on a job: drop it if it still queues, else count its thread as lost until it comes back."""
        if future.cancel():
            return
        with self._changed:
            if future in self._running:
                self._lost.add(future)
                self._staff()

    @property
    def lost(self) -> int:
        """Threads that are stuck in abandoned jobs now."""
        return len(self._lost)

    @property
    def queued(self) -> int:
        """Jobs no thread has begun."""
        return len(self._jobs)

    @property
    def exhausted(self) -> bool:
        """Whether more threads are lost than are replaced: readiness should fail."""
        return self.lost > self.lost_limit

    def close(self) -> None:
        """Take no more jobs, drop those that queue, let idle threads end. It waits for no thread."""
        with self._changed:
            self._closed = True
            dropped = [self._jobs.take()[0] for _ in range(len(self._jobs))]
            self._changed.notify_all()
        for future in dropped:
            future.cancel()

    def _capacity(self) -> int:
        return self.limit + min(len(self._lost), self.lost_limit)

    def _staff(self) -> None:
        """Start a thread if a job would wait for one; the lock is held."""
        if len(self._jobs) > self._idle and self._alive < self._capacity():
            threading.Thread(target=self._work, name=f"{self.name}-{self._started + 1}", daemon=True).start()
            self._alive += 1
            self._started += 1

    def _work(self) -> None:
        while (job := self._take()) is not None:
            future, function, args = job
            if future.set_running_or_notify_cancel():
                _fulfil(future, function, args)
            with self._changed:
                self._running.discard(future)
                self._lost.discard(future)
            del job, future, function, args  # an idle thread keeps nothing alive

    def _take(self) -> tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None:
        """Wait for a job. Returns None when this thread is one too many, as a lost one came back, and after `close`."""
        with self._changed:
            while not self._jobs and not self._closed and self._alive <= self._capacity():
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            if not self._jobs or self._alive > self._capacity():
                self._alive -= 1
                return None
            job = self._jobs.take()
            self._running.add(job[0])
            return job


def _fulfil(future: Future[Any], function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        result = function(*args)
    except BaseException as error:  # as in concurrent.futures: the waiter gets it
        future.set_exception(error)
        del future  # else exception, frame and future would keep each other alive
    else:
        future.set_result(result)


def done_within(seconds: float, function: Callable[[], object]) -> bool:
    """Call what may hang in a thread of its own; return whether it was done in time.

    Python 3.12 and newer start no thread at the exit of the interpreter: then this thread calls it.
    """
    thread = threading.Thread(target=function, name="bf-closing", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        function()
    else:
        thread.join(seconds)
    return not thread.is_alive()
