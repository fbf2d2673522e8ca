"""Processes on Postgres that are killed, frozen or stopped in mid-run: the others go on, and pages see nothing of it.

`BF_CHAOS_ROUNDS` and `BF_CHAOS_RUNS` make the first test larger; with `-s` it prints the figures.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import BrainRequest, Gate, call, reply, text
from postgres_server import new_database, postgres_server

HOSTS = Path(__file__).parent.parent / "hosts"
ROUNDS = int(os.environ.get("BF_CHAOS_ROUNDS", "1"))
RUNS = int(os.environ.get("BF_CHAOS_RUNS", "30"))
THRESHOLD = 1.5
NOTE = {
    "type": "function",
    "function": {
        "name": "note",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
CONFIRM = {"type": "function", "function": {"name": "ui_confirm", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def spread(site: Site, postgres_url: str) -> Site:
    return spread_over(site, postgres_url)


def spread_over(site: Site, postgres_url: str) -> Site:
    """Have the servers of a site share a Postgres database."""
    (site.folder / "trace").touch()
    site.environ |= {
        "BF_DATABASE_URL": postgres_url,
        "BF_SECRET_KEY": Fernet.generate_key().decode(),
        "BF_HEARTBEAT": "0.5",
        "BF_HEARTBEAT_TIMEOUT": str(THRESHOLD),
        "CHAOS_TRACE": str(site.folder / "trace"),
    }
    return site


def serve(site: Site, count: int) -> list[ServerProcess]:
    """Start gunicorns of one worker, each of which could be on a host of its own."""
    command = ("gunicorn", "--config", str(HOSTS / "gunicorn_conf.py"), "--workers", "1", "chaos_app:application")
    servers = [site.serve(*command, cwd=HOSTS) for _ in range(count)]
    for server in servers:
        worker_of(site, server)
    return servers


def worker_of(site: Site, server: ServerProcess) -> int:
    """Return the process id of a gunicorn's worker, once it has started the plugin."""
    assert site.http.get(f"{server.url}/stream/create/assistants/healthz", timeout=30).status_code == 200
    return int(site.http.get(server.url, timeout=30).text)


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Return the first true value of `condition`; what it looks at lies in other processes."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not come to that"
        signal.sigtimedwait([], 0.01)
    return value


def owners(site: Site) -> dict[str, str]:
    """Return the owner of each run that has not ended."""
    with psycopg.connect(site.environ["BF_DATABASE_URL"]) as connection:
        return dict(connection.execute("SELECT id, owner FROM bf_runs WHERE state <> 'ended'").fetchall())


def pid_of(owner: str) -> int:
    return int(owner.partition("-")[0])


def check(site: Site, run: dict[str, Any], expected: str) -> None:
    """Assert that a handler that drops what it has seen shows the whole text and one end."""
    events = site.events(run, timeout=90)
    by_seq = {event["seq"]: event for event in events}
    assert all(by_seq[event["seq"]] == event for event in events)
    assert sorted(by_seq) == list(range(1, len(by_seq) + 1))
    assert [event for event in events if event["type"] == "error"] == []  # it says why the text is not whole
    assert site.gateway.text(run["runId"]) == expected
    assert [event["finish_reason"] for event in by_seq.values() if event["type"] == "end"] == ["stop"]


def story(request: BrainRequest) -> Any:
    """Answer with a text that names its question, after a call of the tool; slowly, astral characters included."""
    question = request.user_texts[-1]
    if not request.outputs:
        return reply(text(f"{question} 😀 "), call("note", {"word": question}), delay=0.01)
    return reply(text(*(f"{question}-{number} 🎈" for number in range(80))), delay=0.02)


def expected_of(question: str) -> str:
    return f"{question} 😀 " + "".join(f"{question}-{number} 🎈" for number in range(80))


def start_all(site: Site, servers: list[ServerProcess], questions: list[str]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(8) as pool:
        places = list(zip(cycle(servers), questions, strict=False))
        return list(pool.map(lambda place: site.start(place[0].url, place[1], tools=[NOTE]), places))


def wait_for_text(site: Site, run: dict[str, Any]) -> None:
    site.gateway.wait_for(lambda: site.gateway.events(run_id=run["runId"], type="delta"), timeout=30)


def wait_for_call(site: Site, number: int) -> Any:
    """Return the id of the tool call that a page was asked to make as call `number` of this site."""
    site.gateway.wait_for(lambda: len(site.gateway.actions("llmToolCall")) > number, timeout=30)
    return site.gateway.actions("llmToolCall")[number]["options"]["toolCallId"]


def test_killing_the_busiest_process_loses_nothing(spread: Site) -> None:
    """Kill -9 of one of three: every run ends once, whole, and no finished tool call is made again."""
    spread.provider.brain = story
    servers = serve(spread, 3)
    chance = random.Random(RUNS)
    takeovers: list[float] = []
    for number in range(ROUNDS):
        questions = [f"q{number}.{index}" for index in range(RUNS)]
        runs = start_all(spread, servers, questions)
        signal.sigtimedwait([], chance.uniform(0.0, 0.5))
        busiest, _ = Counter(owners(spread).values()).most_common(1)[0]
        os.kill(pid_of(busiest), signal.SIGKILL)
        killed = time.monotonic()
        left = {run for run, owner in owners(spread).items() if owner == busiest}
        assert left
        while left:
            now = {run for run, owner in owners(spread).items() if owner == busiest}
            takeovers += [time.monotonic() - killed] * len(left - now)
            left = now
            assert time.monotonic() - killed < 30
            signal.sigtimedwait([], 0.005)
        for run, question in zip(runs, questions, strict=True):
            check(spread, run, expected_of(question))
    done = Counter(line for line in (spread.folder / "trace").read_text().splitlines() if line.startswith("done"))
    assert max(done.values()) == 1
    p50, last = statistics.median(takeovers), max(takeovers)
    print(f"\n{ROUNDS} kills, {ROUNDS * RUNS} runs: all whole; takeover p50 {p50:.2f} s, max {last:.2f} s")


def test_a_frozen_process_is_taken_over_and_stays_silent(spread: Site) -> None:
    """Frozen for longer than the threshold, it finds on waking that its run is another's; it sends nothing new."""
    gate = Gate()
    spread.provider.script(text("so far ", gate, "and further"), "again")
    servers = serve(spread, 2)
    frozen, other = (worker_of(spread, server) for server in servers)
    run = spread.start(servers[0].url)
    wait_for_text(spread, run)
    os.kill(frozen, signal.SIGSTOP)
    try:
        frozen_at = time.monotonic()
        wait_until(lambda: pid_of(owners(spread)[run["runId"]]) == other)
        took = time.monotonic() - frozen_at
        gate.release()
        check(spread, run, "so far and further")
        sent = len(spread.gateway.attempts)
    finally:
        os.kill(frozen, signal.SIGCONT)
    spread.http.close()  # what it kept open to the frozen process is stale
    again = spread.start(servers[0].url, thread_id=run["threadId"])
    check(spread, again, "again")
    late = [attempt for attempt in spread.gateway.attempts[sent:] if run["runId"] in str(attempt.body)]
    assert late == []
    print(f"\ntaken over {took:.2f} s after the freeze")


def test_a_stop_elsewhere_ends_the_run_of_a_frozen_process(spread: Site) -> None:
    """It does not wait for the threshold: the stopping process takes the run after a second."""
    gate = Gate()
    spread.provider.script(text("so far ", gate, "and no further"))
    servers = serve(spread, 2)
    frozen = worker_of(spread, servers[0])
    run = spread.start(servers[0].url)
    wait_for_text(spread, run)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert spread.stop(servers[1].url, run)["status"] == "cancelled"
        assert spread.events(run, timeout=60)[-1]["finish_reason"] == "cancelled"
    finally:
        os.kill(frozen, signal.SIGCONT)
    gate.release()


def test_stops_and_answers_reach_the_driver_from_any_process(spread: Site) -> None:
    """Sent to the process that does not drive the run, each is carried out at once."""
    servers = serve(spread, 2)
    spread.provider.brain = lambda request: reply(text(*["word "] * 500), delay=0.02)
    stops: list[float] = []
    for _ in range(20):
        run = spread.start(servers[0].url)
        wait_for_text(spread, run)
        began = time.monotonic()
        assert spread.stop(servers[1].url, run)["status"] == "cancelled"
        assert spread.events(run, timeout=60)[-1]["finish_reason"] == "cancelled"
        stops.append(time.monotonic() - began)
    spread.provider.brain = lambda request: reply(text("thanks")) if request.outputs else reply(call("ui_confirm", {}))
    answers: list[float] = []
    for number in range(10):
        run = spread.start(servers[0].url, tools=[CONFIRM])
        asked = wait_for_call(spread, number)
        began = time.monotonic()
        answer = spread.post(servers[1].url, "/tool-response", {"toolCallId": asked, "success": True})
        assert answer.json()["status"] == "accepted"
        assert spread.events(run, timeout=60)[-1]["finish_reason"] == "stop"
        answers.append(time.monotonic() - began)
    for name, took in (("stop", stops), ("answer", answers)):
        print(f"\n{name} to end, p50 {statistics.median(took) * 1000:.0f} ms, max {max(took) * 1000:.0f} ms")


@pytest.fixture
def own_postgres() -> Iterator[Any]:
    """A server that no other test uses, to be stopped."""
    with postgres_server() as server:
        yield server


def test_runs_go_on_when_postgres_restarts(own_postgres: Any, site: Site) -> None:
    """Writes wait until it is back; nobody takes over from anybody, since nobody was heard of."""
    spread = spread_over(site, new_database(own_postgres))
    spread.environ["BF_HEARTBEAT_TIMEOUT"] = "30"  # a busy machine may keep a process from its heartbeat for seconds
    spread.provider.brain = story
    servers = serve(spread, 2)
    questions = [f"r{index}" for index in range(8)]
    runs = start_all(spread, servers, questions)
    before = owners(spread)

    own_postgres.stop()
    signal.sigtimedwait([], 1.0)
    own_postgres.ensure_postgres_running()

    assert owners(spread).items() <= before.items()
    for run, question in zip(runs, questions, strict=True):
        check(spread, run, expected_of(question))
    again = spread.start(servers[0].url, "after", tools=[NOTE])
    check(spread, again, expected_of("after"))


def test_the_whole_deployment_comes_back(spread: Site) -> None:
    """Killed all at once, the next life of the deployment goes on with every run."""
    spread.provider.brain = story
    servers = serve(spread, 2)
    questions = [f"d{index}" for index in range(8)]
    runs = start_all(spread, servers, questions)
    for server in servers:
        server.kill()

    serve(spread, 1)

    for run, question in zip(runs, questions, strict=True):
        check(spread, run, expected_of(question))


def test_a_worker_takes_what_a_server_hands_over(spread: Site) -> None:
    """A server that ends politely leaves its runs to a worker, at once; so does a worker."""
    gate, second = Gate(), Gate()
    spread.provider.script(text("one ", gate, "two ", second, "three"))
    spread.environ["BF_HEARTBEAT_TIMEOUT"] = "60"
    server = spread.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    workers = [spread.serve("bf-plugin", "worker") for _ in range(2)]
    for worker in workers:
        worker.wait_for("driving runs")
    run = spread.start(server.url)
    gate.wait_reached(30)

    assert server.stop() == 0
    first = wait_until(lambda: drives(spread, run, workers), 20)
    gate.release()
    spread.gateway.wait_for(lambda: spread.gateway.text(run["runId"]) == "one two ", timeout=30)
    assert first.stop() == 0
    wait_until(lambda: drives(spread, run, [worker for worker in workers if worker is not first]), 20)
    second.release()

    check(spread, run, "one two three")


def drives(site: Site, run: dict[str, Any], processes: list[ServerProcess]) -> ServerProcess | None:
    """Return which of some processes drives a run."""
    owner = owners(site)[run["runId"]]
    return next((process for process in processes if process.pid == pid_of(owner)), None)


def test_a_worker_leaves_alone_what_a_host_app_must_deliver(spread: Site) -> None:
    """Messages that go to a host app in-process cannot be sent from anywhere else."""
    gate = Gate()
    spread.provider.script(text("at ", gate, "home"))
    worker = spread.serve("bf-plugin", "worker")
    worker.wait_for("driving runs")
    del spread.environ["BF_MESSAGING_URL"]
    (server,) = serve(spread, 1)
    run = spread.start(server.url)
    gate.wait_reached(30)
    dead = owners(spread)[run["runId"]]
    server.kill()

    signal.sigtimedwait([], THRESHOLD + 1.5)

    assert owners(spread)[run["runId"]] == dead
    serve(spread, 1)
    wait_until(lambda: owners(spread)[run["runId"]] != dead, 20)
    assert pid_of(owners(spread)[run["runId"]]) != worker.pid
    gate.release()
    wait_until(lambda: run["runId"] not in owners(spread), 20)
