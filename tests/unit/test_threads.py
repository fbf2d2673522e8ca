"""The worker threads: bounded, daemonic, and not lost to a job that never comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bf_plugin.runtime.workers import Workers, done_within

PATIENCE = 10

Make = Callable[..., Workers]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make pools that are closed after the test."""
    made: list[Workers] = []

    def new(limit: int, lost_limit: int = 2) -> Workers:
        made.append(Workers("test", limit=limit, lost_limit=lost_limit))
        return made[-1]

    yield new
    for workers in made:
        workers.close()


class Stuck:
    """A job that stays until it is let go."""

    def __init__(self, workers: Workers) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.future: Future[str] = workers.submit(self._stay)

    def _stay(self) -> str:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.gate.wait(PATIENCE)
        return "back"

    def entered(self) -> Stuck:
        """Wait until a thread is in it."""
        assert self.begun.wait(PATIENCE)
        return self


def test_result_and_arguments(make: Make) -> None:
    """A job gets its arguments and its future the result."""
    assert make(1).submit(divmod, 7, 3).result(PATIENCE) == (2, 1)


def test_exception_belongs_to_the_waiter(make: Make) -> None:
    """What a job raises, SystemExit included, is raised where the result is asked for; the thread goes on."""
    workers = make(1)
    with pytest.raises(SystemExit):
        workers.submit(exit, 3).result(PATIENCE)
    assert workers.submit(len, "ab").result(PATIENCE) == 2


def test_threads_are_daemons_with_the_name_of_the_pool(make: Make) -> None:
    """A thread never keeps the interpreter, and a dump tells whose it is."""
    thread = make(1).submit(threading.current_thread).result(PATIENCE)
    assert (thread.daemon, thread.name) == (True, "test-1")


def test_no_thread_before_the_first_job(make: Make) -> None:
    """A pool costs nothing until it is used."""
    before = set(threading.enumerate())
    make(8)
    assert set(threading.enumerate()) <= before


def test_jobs_queue_when_all_threads_are_busy(make: Make) -> None:
    """With one thread, the second job waits for the first."""
    workers = make(1)
    first = Stuck(workers).entered()
    second = workers.submit(str, 2)
    assert (workers.queued, second.done()) == (1, False)
    first.gate.set()
    assert second.result(PATIENCE) == "2"


def test_an_idle_thread_is_used_again(make: Make) -> None:
    """One job after the other needs one thread, whatever the limit."""
    workers = make(8)
    names = set()
    for _ in range(20):
        names.add(workers.submit(lambda: threading.current_thread().name).result(PATIENCE))
    assert len(names) <= 2  # a result is there a moment before its thread is idle


def test_abandoned_thread_is_replaced(make: Make) -> None:
    """A job that is given up no longer keeps others from running, and its thread is counted until it is back."""
    workers = make(1)
    stuck = Stuck(workers).entered()
    waiting = workers.submit(str, "next")
    workers.abandon(stuck.future)
    assert waiting.result(PATIENCE) == "next"
    assert (workers.lost, workers.exhausted) == (1, False)
    stuck.gate.set()
    stuck.thread.join(PATIENCE)  # one of the two is too many now
    assert (stuck.future.result(0), stuck.thread.is_alive(), workers.lost) == ("back", False, 0)
    assert workers.submit(str, "more").result(PATIENCE) == "more"


def test_past_the_lost_limit_jobs_queue(make: Make) -> None:
    """More lost threads than may be replaced: the pool is exhausted, and recovers when one comes back."""
    workers = make(1, lost_limit=1)
    lost = [Stuck(workers).entered()]
    workers.abandon(lost[0].future)
    lost.append(Stuck(workers).entered())
    workers.abandon(lost[1].future)
    waiting = workers.submit(str, "late")
    assert (workers.lost, workers.exhausted, workers.queued) == (2, True, 1)
    lost[0].gate.set()
    assert waiting.result(PATIENCE) == "late"
    lost[1].gate.set()


def test_abandoning_a_queued_job_drops_it(make: Make) -> None:
    """A job that no thread has begun is never run, and no thread is counted lost."""
    workers = make(1)
    first = Stuck(workers).entered()
    called = threading.Event()
    second = workers.submit(called.set)
    workers.abandon(second)
    first.gate.set()
    assert workers.submit(str, 3).result(PATIENCE) == "3"
    assert (second.cancelled(), called.is_set(), workers.lost) == (True, False, 0)


def test_abandoning_a_finished_job_is_nothing(make: Make) -> None:
    """Giving up what has come back loses no thread."""
    workers = make(1)
    future = workers.submit(str, 1)
    future.result(PATIENCE)
    workers.submit(str, 2).result(PATIENCE)  # the thread has left the first job for sure
    workers.abandon(future)
    assert workers.lost == 0


def test_close_drops_what_queues_and_takes_no_more(make: Make) -> None:
    """After close, queued jobs are cancelled, running ones finish, new ones are refused."""
    workers = make(1)
    running = Stuck(workers).entered()
    queued = workers.submit(str, 1)
    workers.close()
    with pytest.raises(CancelledError):
        queued.result(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        workers.submit(str, 2)
    running.gate.set()
    assert running.future.result(PATIENCE) == "back"


def test_idle_threads_leave_after_close(make: Make) -> None:
    """Closing lets the threads end, so that mounts can come and go."""
    workers = make(2)
    thread = workers.submit(threading.current_thread).result(PATIENCE)
    workers.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@settings(max_examples=25, deadline=None)
@given(limit=st.integers(1, 4), jobs=st.lists(st.booleans(), max_size=40))
def test_never_more_at_once_than_the_limit(limit: int, jobs: list[bool]) -> None:
    """Whatever is submitted, all of it runs and never more than `limit` at the same time."""
    workers, lock, now, most = Workers("test", limit=limit), threading.Lock(), [0], [0]

    def job(fails: bool) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with lock:
            now[0] -= 1
        if fails:
            raise ValueError("as told")

    futures = [workers.submit(job, fails) for fails in jobs]
    assert wait(futures, timeout=PATIENCE).not_done == set()
    assert [future.exception() is not None for future in futures] == jobs
    assert most[0] <= limit
    workers.close()


def test_what_may_hang_is_given_a_while() -> None:
    """In a thread of its own, which is left behind when it does not come back."""
    gate, done = threading.Event(), []
    assert not done_within(0.05, gate.wait)
    assert done_within(PATIENCE, lambda: done.append(threading.current_thread().name))
    assert done == ["bf-closing"]
    gate.set()


def test_without_threads_it_is_called_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the exit of an interpreter, which starts no thread any more."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[str] = []
    assert done_within(PATIENCE, lambda: done.append(threading.current_thread().name))
    assert done == ["MainThread"]
