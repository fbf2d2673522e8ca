"""The disk that the journal lies on is full: what is under way fails with a word, and with room all is as before.

On a small tmpfs of its own where the tests may mount one, and where they may not, under a limit on the size of files,
which the system enforces in the same place.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY
from bf_plugin.testing.process import ServerProcess, Site
from bf_plugin.testing.provider import Gate, text

SIZE = 8 * 1024 * 1024


class Disk(Protocol):
    """Where the journal lies."""

    folder: Path

    def fill(self, server: ServerProcess) -> None:
        """Leave no room."""
        ...

    def free(self, server: ServerProcess) -> None:
        """Give the room back."""
        ...


class SmallDisk:
    """A file system with a file that can take up all the rest of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self, server: ServerProcess | None = None) -> None:
        left = os.statvfs(self.folder)
        with self._filler.open("wb") as file:
            file.write(b"\0" * (left.f_bavail * left.f_frsize))

    def free(self, server: ServerProcess) -> None:
        self._filler.unlink()


class SmallFiles:
    """No file of the server may grow beyond nothing, while that lasts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, server: ServerProcess) -> None:
        self._limit(server, 0)

    def free(self, server: ServerProcess) -> None:
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: ServerProcess, size: int) -> None:
        _, most = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size if most == resource.RLIM_INFINITY else most, most))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A tmpfs. Skips where none may be mounted: that needs root, with the capability CAP_SYS_ADMIN in a container."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700,uid={os.getuid()}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounting.returncode != 0:
        pytest.skip(f"a file system of its own cannot be mounted here: {mounting.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(params=["small disk", "small files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Both kinds, one after the other."""
    if request.param == "small files":
        return SmallFiles(tmp_path)
    found: Disk = request.getfixturevalue("small_disk")
    return found


def serve(site: Site, disk: Disk) -> ServerProcess:
    database = f"sqlite:///{disk.folder / 'journal.db'}"
    return site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0", BF_DATABASE_URL=database)


def body(question: str) -> dict[str, Any]:
    payload = {"apiKey": PROVIDER_KEY, "stream": True, "messages": [{"role": "user", "content": question}]}
    return {"apiKey": APP_KEY, "channels": [CHANNEL], "actionName": ACTION, "payload": payload}


def test_a_disk_that_is_full_for_a_while(site: Site, disk: Disk) -> None:
    """A run under way ends with what it could not say, starts are refused, and with room everything works again."""
    gate = Gate()
    site.provider.script(text("before ", gate, "behind " * 2000), "again", "fresh")
    server = serve(site, disk)
    run = site.start(server.url)
    site.gateway.wait_for(lambda: site.gateway.text(run["runId"]) == "before ", timeout=30)

    disk.fill(server)
    gate.release()
    refused = site.post(server.url, "", body("Is there room?"))
    ready = site.http.get(f"{server.url}/stream/create/assistants/readyz", timeout=30)
    server.wait_for("cannot record the run's end; retrying")
    disk.free(server)

    assert (refused.status_code, ready.status_code) == (503, 503)
    for answer in (refused.text, ready.text, server.output):
        assert_says_what_to_do(answer)
    events = site.events(run, timeout=60)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events[-2:]] == ["error", "end"]
    assert events[-2]["error"]["code"] == "journal_failed"
    assert_says_what_to_do(events[-2]["error"]["details"])
    for place, said in (({"thread_id": run["threadId"]}, "again"), ({}, "fresh")):
        later = site.start(server.url, **place)
        assert site.events(later, timeout=60)[-1]["finish_reason"] == "stop"
        assert site.gateway.text(later["runId"]) == said
    assert_sound(server, disk)


def still_open(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM bf_runs WHERE state <> 'ended'").fetchone()
    return int(count)


def assert_says_what_to_do(words: str) -> None:
    assert any(advice in words for advice in ("free space on the disk", "its disk is failing or full")), words


def assert_sound(server: ServerProcess, disk: Disk) -> None:
    """Nothing is corrupt, nothing was written about as if it were a bug, and no key with it."""
    with closing(sqlite3.connect(disk.folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        give_up = time.monotonic() + 30
        while still_open(connection):  # `end` is sent a little before the run is done with
            assert time.monotonic() < give_up, "runs are left open"
            signal.sigtimedwait([], 0.01)
    assert "Traceback" not in server.output
    assert PROVIDER_KEY not in server.output
    assert APP_KEY not in server.output


def test_a_server_that_starts_on_a_full_disk(site: Site, small_disk: SmallDisk) -> None:
    """It says what is the matter and ends."""
    small_disk.fill()

    server = serve(site, small_disk)

    assert server.wait() != 0
    assert "free space on" in server.output
    assert "Traceback" not in server.output
