"""What processes of their own show: children after a fork, and what a new one loads."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bf_plugin.journal import open_journal
from bf_plugin.plugins.lease import Lease, lend
from bf_plugin.runtime.loop import LoopThread

KEY = "q1a9Wd2LJ0V0Sg4Vw0P8xJc0v5m7B8n9K1Zb3Xc4Y5U="
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None
KINDS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(not HAS_UVLOOP, reason="uvloop is not installed"))]
FORK = """
import asyncio, os, socket, sys, warnings
from bf_plugin.runtime.loop import LoopThread

warnings.simplefilter("ignore")  # that threads and forks do not go together is what this is about
if sys.argv[1] == "asyncio":
    sys.modules["uvloop"] = None

def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs

async def read(ours):
    loop = asyncio.get_running_loop()
    return await loop.sock_recv(ours, 9), type(loop).__module__.partition(".")[0]

parent = LoopThread()
ours, theirs = pair()
reading = parent.run(read(ours))
child = os.fork()
if child == 0:
    mine = LoopThread()
    own, other = pair()
    other.sendall(b"me")
    print("child", *mine.run(read(own)).result(30), flush=True)
    mine.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
theirs.sendall(b"hi")
print("parent", *reading.result(30))
parent.close()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_leaves_the_parents_loop_alone(kind: str) -> None:
    """The child makes a loop of its own; what the parent waits for still comes, after the child has ended too."""
    done = subprocess.run([sys.executable, "-c", FORK, kind], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"child b'me' {kind}", f"parent b'hi' {kind}"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_does_not_use_what_its_parent_was_lent(tmp_path: Path) -> None:
    """The parent's threads are not there after a fork: waiting for them would be for ever."""
    loop = LoopThread()
    lease = Lease(loop)
    journal = open_journal(f"sqlite:///{tmp_path / 'journal.db'}", [KEY])
    context = lend(journal, lease)(name="mine", section={}, settings=None)
    calls: list[Callable[[], object]] = [
        lambda: context.store.increment("a"),
        lambda: context.run_async(asyncio.sleep(0)),
    ]
    assert [in_child(call) for call in calls] == ["ContextError: forked"] * 2
    assert context.store.get("a") is None
    journal.close()
    lease.close()
    loop.close()


def in_child(call: Callable[[], object]) -> str:
    """Fork, and return what `call` raised there."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            call()
            said = "nothing"
        except BaseException as error:
            said = f"{type(error).__name__}: {'forked' if 'forked' in str(error) else error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_the_sdk_is_loaded_before_it_is_needed(tmp_path: Path) -> None:
    """By the service, in the background; importing the plugin and mounting it loads nothing of it."""
    code = """
import sys, threading
from bf_plugin import mount
from bf_plugin.settings import Settings
from bf_plugin.testing import new_draft
from bf_plugin.values import RunDraft
application = mount(lambda environ, start_response: [], settings=Settings(database_url=sys.argv[1]))
assert not {"openai", "sqlalchemy", "aiohttp"} & set(sys.modules), "mounting loads too much"
application.start()
for thread in threading.enumerate():
    if thread.name == "warm-up":
        thread.join(60)
assert "openai.resources.responses.responses" in sys.modules
application.close()
"""
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{tmp_path / 'journal.db'}"], check=True, timeout=90)
