"""The loop thread, on asyncio's loop and on uvloop's where that is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bf_plugin.runtime.loop import LoopThread

HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
KINDS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed"))]


def kind_of(loop: LoopThread) -> str:
    """Return whose loop it is."""

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    return type(loop.run(running()).result(5)).__module__.partition(".")[0]


@pytest.fixture(params=KINDS)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    if request.param == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = LoopThread()
    assert kind_of(loop) == request.param
    yield loop
    loop.close()


def test_without_uvloop_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is an extra: who has not installed it need not hear of it."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = LoopThread()

    assert kind_of(loop) == "asyncio"
    assert caplog.records == []
    loop.close()


def refuse() -> None:
    raise OSError("no such system call")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [({}, "AttributeError"), ({"new_event_loop": refuse}, "OSError: no such system call")],
)
def test_a_broken_uvloop_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    contents: dict[str, Callable[[], None]],
    reason: str,
) -> None:
    """Whatever is wrong with it, the plugin runs without it, and the log says why."""
    module = types.ModuleType("uvloop")
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, "uvloop", module)
    loop = LoopThread()

    assert kind_of(loop) == "asyncio"
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "bf_plugin.runtime.loop")
    assert f"cannot use uvloop, using asyncio's loop: {reason}" in record.getMessage()
    loop.close()


def test_a_uvloop_that_lacks_something(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A missing part of it is not taken for its absence."""
    (tmp_path / "uvloop.py").write_text("import uvloop_loop_is_missing\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "uvloop", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    loop = LoopThread()

    assert kind_of(loop) == "asyncio"
    assert "No module named 'uvloop_loop_is_missing'" in caplog.text
    loop.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_ends_processes_does_not_end_the_loop(
    loop: LoopThread, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Raised in one run it is that run's affair, and is logged; raised in a callback too; the others go on."""
    other = threading.Event()

    async def failing() -> None:
        raise error

    def raising() -> None:
        raise error

    failed = loop.run(failing())
    with pytest.raises(type(error)):
        failed.result(5)
    loop.call(raising)
    loop.call(other.set)
    assert other.wait(5)
    assert kind_of(loop) in ("asyncio", "uvloop")
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"a task raised {type(error).__name__} on the event loop"] * 2


def test_closing_ends_what_runs(loop: LoopThread) -> None:
    """Tasks are cancelled and waited for, the thread ends, and what comes later is refused."""
    cleaned = threading.Event()
    threads: list[threading.Thread] = []

    async def endless() -> None:
        threads.append(threading.current_thread())
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    running = loop.run(endless())
    assert kind_of(loop)
    loop.close()

    assert cleaned.is_set()
    assert running.cancelled()
    assert not loop.call(cleaned.clear)
    assert [thread.is_alive() for thread in threads] == [False]
    loop.close()


def test_an_interrupt_does_not_prevent_the_end(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised in the turn in which the loop is told to stop, it makes the loop forget that."""
    held, told, go_on, call = threading.Event(), threading.Event(), threading.Event(), loop.call

    def hold() -> None:
        held.set()
        go_on.wait(5)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def tell(callback: Callable[[], object]) -> bool:
        done = call(callback) and call(interrupt)
        told.set()
        return done

    call(hold)
    assert held.wait(5)
    monkeypatch.setattr(loop, "call", tell)
    closing = threading.Thread(target=loop.close)
    closing.start()
    assert told.wait(5)
    go_on.set()
    closing.join(5)

    assert not closing.is_alive()
    assert not loop._thread.is_alive()
