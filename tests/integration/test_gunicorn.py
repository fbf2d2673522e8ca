"""Gunicorn in front of a gateway that mounts the plugin: threads, loaded before the fork."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import Gate, text

HOSTS = Path(__file__).parents[1] / "hosts"


def gunicorn(site: Site, workers: int, *options: str, app: str = "wsgi_app:application") -> ServerProcess:
    arguments = ("--config", "gunicorn_conf.py", "--workers", str(workers), *options, app)
    return site.serve("gunicorn", *arguments, cwd=HOSTS)


@pytest.mark.parametrize("workers", [1, 2])
def test_it_serves_pages_and_runs(site: Site, workers: int) -> None:
    """The gateway's pages and the endpoint are served by all workers; a thread goes on in whichever is asked."""
    server = gunicorn(site, workers)
    site.provider.script(*[f"answer {number}" for number in range(6)])

    assert site.http.get(server.url + "/hello", timeout=30).text == "hello from WSGI at /hello"
    thread: dict[str, Any] = {}
    for number in range(6):
        run = site.start(server.url, "Hi", **thread)
        assert site.events(run)[-1]["finish_reason"] == "stop"
        assert site.gateway.text(run["runId"]) == f"answer {number}"
        thread = {"thread_id": run["threadId"]}


def test_a_run_is_stopped(site: Site) -> None:
    """With one worker a stop reaches every run."""
    server = gunicorn(site, 1)
    gate = Gate()
    site.provider.script(text("so far", gate, " and on"))
    run = site.start(server.url)
    gate.wait_reached()

    assert site.stop(server.url, run)["status"] == "cancelled"

    assert site.events(run)[-1]["finish_reason"] == "cancelled"
    gate.release()


def test_the_application_may_be_started_before_the_fork(site: Site) -> None:
    """What a parent has started is left to it: its workers start their own, and serve."""
    server = gunicorn(site, 2, app="started_app:application")
    site.provider.script("one", "two", "three", "four")

    for _ in range(4):
        assert site.events(site.start(server.url))[-1]["finish_reason"] == "stop"


def test_a_worker_that_is_replaced_leaves_its_threads(site: Site) -> None:
    """After a restart of the server, ended runs and their threads are found."""
    site.provider.script("before", "after")
    first = gunicorn(site, 1)
    run = site.start(first.url)
    site.events(run)
    assert first.stop() == 0

    second = gunicorn(site, 1)

    assert site.stop(second.url, run)["status"] == "already_completed"
    again = site.start(second.url, "More", thread_id=run["threadId"])
    site.events(again)
    assert site.gateway.text(again["runId"]) == "after"


def test_nothing_goes_wrong_unsaid(site: Site) -> None:
    """A start, a run and a polite end leave no error in the server's log."""
    server = gunicorn(site, 1)
    site.provider.script("fine")
    site.events(site.start(server.url))

    assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "ERROR" not in server.output
