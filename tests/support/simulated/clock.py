"""A clock that only moves when it is told to, and an event loop that goes by it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Clock:
    """The time of everything: what `time.time()` says, and the loops."""

    def __init__(self) -> None:
        self.now = 100_000.0  # small, so that a loop's tiny margin around its timers is not lost in rounding

    def time(self) -> float:
        return self.now


class _Impatient(selectors.SelectSelector):
    """A selector that never waits; `wait` is how long the loop would have, 0 if something was ready."""

    def __init__(self) -> None:
        super().__init__()
        self.wait: float | None = None
        self.selected: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self.wait = 0.0 if events else timeout
        self.selected()
        return events


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that turns once at a time. What would run in a thread of its own runs in place."""

    def __init__(self, clock: Clock, blame: Callable[[str], None]) -> None:
        self.dead = False
        """Whether its process has vanished: then nothing of it may be heard or seen any more."""
        self._clock = clock
        self._sleeps_until = 0.0
        self._impatient = _Impatient()
        super().__init__(self._impatient)
        self._impatient.selected = self.stop
        self.set_exception_handler(lambda loop, context: blame(f"unhandled: {context}"))

    def time(self) -> float:
        return self._clock.now

    def turn(self) -> bool:
        """Run once what is ready, and timers that are due; False if there was nothing."""
        if self.time() < self._sleeps_until:
            return False
        self.run_forever()
        if self._impatient.wait == 0:
            return True
        self._sleeps_until = math.inf if self._impatient.wait is None else self.time() + self._impatient.wait
        return False

    @property
    def wait(self) -> float:
        """How many seconds it is to the next timer after a turn with nothing to do."""
        return self._sleeps_until - self.time()

    def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self._sleeps_until = 0.0
        return super().call_soon(*args, **options)

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self._sleeps_until = 0.0
        return super().call_soon_threadsafe(*args, **options)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


async def live() -> None:
    """Return, but never in a process that is dead."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, SteppedLoop) and loop.dead:
        await asyncio.Event().wait()


class Awaited(Future[T]):
    """A future that somebody may wait for: then the process goes on until it is done."""

    def __init__(self, push: Callable[[], bool]) -> None:
        super().__init__()
        self._push = push

    def result(self, timeout: float | None = None) -> T:
        while not self.done() and self._push():
            pass
        return super().result(0)


class SteppedLoopThread:
    """What `LoopThread` is to request threads and dispatchers."""

    def __init__(self, loop: SteppedLoop, push: Callable[[], bool]) -> None:
        self._loop = loop
        self._push = push

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        awaited: Awaited[T] = Awaited(self._push)

        def settle(task: asyncio.Task[T]) -> None:
            if not task.cancelled():
                awaited.set_result(task.result())

        self._loop.create_task(coroutine).add_done_callback(settle)
        return awaited

    def call(self, callback: Callable[..., object], *args: Any) -> bool:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *args)
            return True
        return False
