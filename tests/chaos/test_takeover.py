"""Workers of one host that are killed or stopped in mid-run: their siblings go on, and pages see nothing of it.

`BF_CHAOS_ROUNDS` and `BF_CHAOS_RUNS` make the first test larger; with `-s` it prints the figures.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import BrainRequest, Gate, call, reply, text

HOSTS = Path(__file__).parent.parent / "hosts"
ROUNDS = int(os.environ.get("BF_CHAOS_ROUNDS", "2"))
RUNS = int(os.environ.get("BF_CHAOS_RUNS", "40"))
TOOL = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


def gunicorn(site: Site, workers: int = 3) -> ServerProcess:
    """Start gunicorn with several workers of the chaos app, and wait until all of them have started the plugin."""
    trace = site.folder / "trace"
    trace.touch()
    server = site.serve(
        "gunicorn",
        "--config",
        str(HOSTS / "gunicorn_conf.py"),
        "--workers",
        str(workers),
        "chaos_app:application",
        cwd=HOSTS,
        CHAOS_TRACE=str(trace),
    )
    wait_until(lambda: len(list((site.folder / "site.db.d").glob("*"))) >= workers)
    return server


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first true value of `condition`; what it looks at lies in other processes."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not come to that"
        os.sched_yield()
        signal.sigtimedwait([], 0.01)
    return value


@contextmanager
def journal(site: Site) -> Iterator[sqlite3.Connection]:
    """Look into the journal while others write it."""
    with closing(sqlite3.connect(f"file:{site.folder / 'site.db'}?mode=ro", uri=True)) as connection:
        yield connection


def owners(site: Site) -> dict[str, str]:
    """Return the owner of each run that has not ended."""
    with journal(site) as connection:
        return dict(connection.execute("SELECT id, owner FROM bf_runs WHERE state <> 'ended'"))


def pid_of(owner: str) -> int:
    return int(owner.partition("-")[0])


def check(site: Site, run: dict[str, Any], expected: str) -> None:
    """Assert that a handler that drops what it has seen shows the whole text and one end."""
    events = site.events(run, timeout=90)
    by_seq = {event["seq"]: event for event in events}
    assert all(by_seq[event["seq"]] == event for event in events)
    assert sorted(by_seq) == list(range(1, len(by_seq) + 1))
    assert site.gateway.text(run["runId"]) == expected
    ends = [event for event in by_seq.values() if event["type"] == "end"]
    assert [end["finish_reason"] for end in ends] == ["stop"]


def story(request: BrainRequest) -> Any:
    """Answer with a text that names its question, after a call of the tool; slowly, astral characters included."""
    question = request.user_texts[-1]
    if not request.outputs:
        return reply(text(f"{question} 😀 "), call("note", {"word": question}), delay=0.01)
    words = [f"{question}-{number} 🎈" for number in range(80)]
    return reply(text(*words), delay=0.02)


def expected_of(question: str) -> str:
    return f"{question} 😀 " + "".join(f"{question}-{number} 🎈" for number in range(80))


def test_killing_the_busiest_worker_loses_nothing(site: Site) -> None:
    """Kill -9 of the busiest of three: every run ends once, whole, and no finished tool call is made again."""
    site.provider.brain = story
    server = gunicorn(site)
    chance = random.Random(RUNS)
    takeovers: list[float] = []
    for number in range(ROUNDS):
        questions = [f"q{number}.{index}" for index in range(RUNS)]
        with ThreadPoolExecutor(16) as pool:
            runs = list(pool.map(lambda question: site.start(server.url, question, tools=[TOOL]), questions))
        signal.sigtimedwait([], chance.uniform(0.0, 0.5))
        busiest, _ = Counter(owners(site).values()).most_common(1)[0]
        os.kill(pid_of(busiest), signal.SIGKILL)
        killed = time.monotonic()
        left = {run for run, owner in owners(site).items() if owner == busiest}
        while left:
            left = {run for run, owner in owners(site).items() if owner == busiest}
            takeovers.append(time.monotonic() - killed)
            assert takeovers[-1] < 30
            signal.sigtimedwait([], 0.005)
        for run, question in zip(runs, questions, strict=True):
            check(site, run, expected_of(question))
    done = Counter(line for line in (site.folder / "trace").read_text().splitlines() if line.startswith("done"))
    assert max(done.values()) == 1
    print(
        f"\n{ROUNDS} kills, {ROUNDS * RUNS} runs: all ended once, whole; last takeovers after s: {max(takeovers):.2f}"
    )


def test_a_worker_that_stands_still_loses_what_is_stopped(site: Site) -> None:
    """A sibling's stop of a frozen worker's run gives `end` in time; when it thaws it sends nothing new."""
    gate = Gate()
    site.provider.script(text("so far ", gate, "and no further"))
    server = gunicorn(site, 2)
    run = site.start(server.url)
    wait_for_text(site, run)
    frozen = pid_of(owners(site)[run["runId"]])
    os.kill(frozen, signal.SIGSTOP)
    try:
        answer = stop_elsewhere(site, server, run)
        began = time.monotonic()
        events = site.events(run, timeout=60)
        took = time.monotonic() - began
    finally:
        os.kill(frozen, signal.SIGCONT)
    gate.release()
    assert answer["status"] == "cancelled"
    assert events[-1]["finish_reason"] == "cancelled"
    attempts = len(site.gateway.attempts)
    again = site.start(server.url, thread_id=run["threadId"])
    site.events(again, timeout=60)
    late = [attempt for attempt in site.gateway.attempts[attempts:] if run["runId"] in str(attempt.body)]
    assert late == []
    print(f"\nend {took:.2f} s after a sibling's stop of a frozen worker's run")


def stop_elsewhere(site: Site, server: ServerProcess, run: dict[str, Any]) -> dict[str, Any]:
    """Stop a run at a worker that answers: a connection may be taken by the frozen one, which never does."""
    for _ in range(20):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(site.http.post, f"{server.url}/stream/create/assistants/stop", json=run, timeout=2)
            if asked.exception() is None:
                return dict(asked.result().json())
    raise AssertionError("no worker answered")


def wait_for_text(site: Site, run: dict[str, Any]) -> None:
    """Wait until a run has said something."""
    site.gateway.wait_for(lambda: site.gateway.events(run_id=run["runId"], type="delta"), timeout=30)


def test_stops_and_answers_reach_the_driver_from_any_worker(site: Site) -> None:
    """A stop sent to whichever worker takes it ends the run, wherever it is driven."""
    site.provider.brain = lambda request: reply(text(*["word "] * 500), delay=0.02)
    server = gunicorn(site)
    took: list[float] = []
    for _ in range(12):
        run = site.start(server.url)
        wait_for_text(site, run)
        began = time.monotonic()
        assert site.stop(server.url, run)["status"] == "cancelled"
        assert site.events(run, timeout=60)[-1]["finish_reason"] == "cancelled"
        took.append(time.monotonic() - began)
    print(f"\nstop to end over workers: p50 {statistics.median(took) * 1000:.0f} ms, max {max(took) * 1000:.0f} ms")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_the_whole_deployment_comes_back(site: Site, sign: signal.Signals) -> None:
    """Ended politely or not, all workers at once, the next life of the deployment goes on with every run."""
    site.provider.brain = story
    server = gunicorn(site)
    questions = [f"d{index}" for index in range(10)]
    runs = [site.start(server.url, question, tools=[TOOL]) for question in questions]
    if sign == signal.SIGKILL:
        server.kill()
    else:
        server.stop()

    gunicorn(site)

    for run, question in zip(runs, questions, strict=True):
        check(site, run, expected_of(question))
