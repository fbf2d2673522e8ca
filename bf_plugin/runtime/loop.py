"""The one event loop of a process, on a daemon thread of its own: it drives all runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from bf_plugin.runtime.logs import get_logger, in_short

T = TypeVar("T")


class LoopThread:
    """Runs an asyncio loop. Other threads hand it work with `run` and `call`, and touch it in no other way."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="bf-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine; callable from any thread but the loop's own."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, callback: Callable[..., object], *args: Any) -> bool:
        """Call `callback` on the loop soon; after `close` this does nothing and returns False."""
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        self._closing = True
        if self._thread.is_alive():
            self.call(self._loop.stop)
            self._thread.join(timeout=10)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._serve()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _serve(self) -> None:
        while True:
            try:
                return self._loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as error:
                # asyncio lets these out of a task. Its waiter gets them too, and the other runs must not stand still.
                get_logger(__name__).error("a task raised %s on the event loop", type(error).__name__, error=error)
                if self._closing:  # the loop may have forgotten that it was to stop
                    return None


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where that is installed (extra `fast`), else asyncio's; no policy is touched."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except Exception as error:
        if not isinstance(error, ModuleNotFoundError) or error.name != "uvloop":
            get_logger(__name__).warning("cannot use uvloop, using asyncio's loop: %s", in_short(error))
        return asyncio.new_event_loop()
    return loop


async def settled(future: Future[T]) -> T:
    """Await a write of the journal. It happens even if the caller is cancelled: it may be committed already."""
    return await unbroken(asyncio.wrap_future(future))


async def unbroken(future: asyncio.Future[T]) -> T:
    """Await a future that goes on when its caller is cancelled; its error is then dropped in silence."""
    future.add_done_callback(_heard)
    return await asyncio.shield(future)


def _heard(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
