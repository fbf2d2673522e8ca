"""What a mount lends to its plugins: coroutines run on its loop, and nothing works longer than the mount."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.errors import ContextError
from bf_plugin.journal import open_journal
from bf_plugin.plugins.context import PluginContext
from bf_plugin.plugins.lease import Lease, lend
from bf_plugin.runtime.loop import LoopThread

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="


@pytest.fixture
def lease() -> Iterator[Lease]:
    """A lease of a loop."""
    loop = LoopThread()
    lent = Lease(loop)
    yield lent
    lent.close()
    loop.close()


@pytest.fixture
def context(lease: Lease, tmp_path: Path) -> Iterator[PluginContext]:
    """A plugin's context."""
    journal = open_journal(f"sqlite:///{tmp_path / 'journal.db'}", [KEY])
    yield lend(journal, lease)(name="mine", section={"a": 1}, settings=None)
    journal.close()


async def thread_name() -> str:
    await asyncio.sleep(0)
    return threading.current_thread().name


def test_a_coroutine_runs_on_the_loop(context: PluginContext) -> None:
    """Its result comes back to the thread that waits; several may wait at once."""
    assert context.run_async(thread_name()) == "bf-loop"
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: context.run_async(thread_name()), range(20))) == {"bf-loop"}


def test_runs_are_counted_while_the_gateway_is_up(lease: Lease, context: PluginContext) -> None:
    """From any thread, the loop's too; neither before the gateway is up nor after it is closed."""
    with pytest.raises(ContextError, match="before the gateway was up"):
        context.active_runs()
    lease.count = lambda: 3

    async def on_the_loop() -> int:
        return context.active_runs()

    assert (context.active_runs(), context.run_async(on_the_loop())) == (3, 3)
    lease.close()
    with pytest.raises(ContextError, match="after the plugin was closed"):
        context.active_runs()


def test_what_it_raises_is_raised(context: PluginContext) -> None:
    """Also a TimeoutError of its own, which is not taken for ours."""

    async def fail(error: Exception) -> None:
        raise error

    for error in (KeyError("x"), TimeoutError("its own")):
        with pytest.raises(type(error), match=str(error.args[0])):
            context.run_async(fail(error), timeout=10)


def test_a_coroutine_that_takes_too_long_is_cancelled(context: PluginContext) -> None:
    """The caller gets TimeoutError, and the coroutine does not go on."""
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s"):
        context.run_async(forever(), timeout=0.05)
    assert cancelled.wait(10)


def test_on_the_loop_it_is_refused(context: PluginContext) -> None:
    """Waiting there would stop the loop, and so what it waits for; nothing of the coroutine stays behind."""

    async def outer() -> None:
        with pytest.raises(ContextError, match=r"event loop.*: await the coroutine"):
            context.run_async(thread_name())

    context.run_async(outer())


def test_a_background_task_is_started_and_ended(context: PluginContext) -> None:
    """A task begun by one call lives on beside it, and is there for later ones."""
    heard: list[int] = []

    class Exporter:
        async def put(self, item: int) -> None:
            if not hasattr(self, "task"):
                self.queue: asyncio.Queue[int] = asyncio.Queue()
                self.task = asyncio.create_task(self.work())
            await self.queue.put(item)
            await self.queue.join()

        async def work(self) -> None:
            while True:
                heard.append(await self.queue.get())
                self.queue.task_done()

        async def aclose(self) -> None:
            self.task.cancel()

    exporter = Exporter()
    for item in range(3):
        context.run_async(exporter.put(item))
    context.run_async(exporter.aclose())
    assert heard == [0, 1, 2]


def test_after_close_nothing_is_lent(lease: Lease, context: PluginContext) -> None:
    """Store and loop say so; who waits for a coroutine is woken, so that no thread hangs."""
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(context.run_async, forever())
        assert begun.wait(10)
        lease.close()
        with pytest.raises(ContextError, match="cancelled"):
            waiting.result(10)
    with pytest.raises(ContextError, match="run_async was called after the plugin was closed"):
        context.run_async(thread_name())
    with pytest.raises(ContextError, match="store was called after the plugin was closed"):
        context.store.get("a")


def test_without_a_mount_only_the_use_is_an_error() -> None:
    """`bf-plugin plugins` loads plugins without running them: a factory that keeps its context does not fail."""
    context = PluginContext(name="mine")
    calls: list[Callable[[], object]] = [
        lambda: context.store.get("a"),
        lambda: context.store.put("a", 1),
        lambda: context.store.increment("a"),
        lambda: context.store.delete("a"),
        lambda: context.run_async(thread_name()),
        context.active_runs,
    ]
    for call in calls:
        with pytest.raises(ContextError, match=r"works in a running gateway only.*not in the factory"):
            call()


def test_the_context_shows_no_secret_of_the_section(context: PluginContext) -> None:
    """A context ends up in logs and tracebacks."""
    assert repr(context) == "PluginContext(name='mine')"


def coroutine_types(context: PluginContext) -> None:
    """For mypy: the result has the type of the coroutine's."""
    name: str = context.run_async(thread_name())
    job: Coroutine[Any, Any, str] = thread_name()
    job.close()
    assert name
