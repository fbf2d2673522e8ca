"""The mark of a process: held while it lives, free however it dies, never freed by looking at it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bf_plugin.dispatch.owner import Owner
from bf_plugin.errors import ConfigurationError

_HOLD = """
import sys
from pathlib import Path
from bf_plugin.dispatch.owner import Owner
print(Owner(Path(sys.argv[1])).id, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.release()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a mark, and has said which."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def _name(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_process_is_alive_until_it_is_killed(owner: Owner, process: subprocess.Popen[str]) -> None:
    """The system frees the lock of a process that had no time to do it."""
    other = _name(process)
    assert owner.is_alive(other)

    process.send_signal(signal.SIGKILL)
    process.wait(10)

    assert not owner.is_alive(other)


def test_looking_does_not_free(owner: Owner, tmp_path: Path) -> None:
    """Closing a descriptor of a file frees the process's lock on it, so an owner of this process is not opened."""
    sibling = Owner(tmp_path)

    assert owner.is_alive(owner.id)
    assert owner.is_alive(sibling.id)

    assert _locked(tmp_path / owner.id)
    assert _locked(tmp_path / sibling.id)
    sibling.release()


def test_a_released_owner_is_gone(owner: Owner, tmp_path: Path) -> None:
    """A mount that was closed is not alive, though its process is; its file is gone too."""
    sibling = Owner(tmp_path)
    sibling.release()
    sibling.release()

    assert not owner.is_alive(sibling.id)
    assert not (tmp_path / sibling.id).exists()
    assert owner.is_alive(owner.id)


def test_a_reused_pid_is_another_owner(owner: Owner, tmp_path: Path) -> None:
    """A process that got the number of a dead one does not pass for it: the start time is part of the name."""
    pid, started, _ = owner.id.split("-")
    dead = f"{pid}-{int(started) - 1}-00000000"
    (tmp_path / dead).touch()

    assert not owner.is_alive(dead)


def test_an_unknown_owner_is_dead(owner: Owner) -> None:
    """Nobody holds a mark that does not exist."""
    assert not owner.is_alive("1-1-00000000")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_hold_its_parents_mark(owner: Owner, process: subprocess.Popen[str]) -> None:
    """Record locks are not inherited: a child that outlives its parent keeps no run from being taken."""
    other = _name(process)
    report, reported = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine = Owner(owner.folder)
            told = f"{mine.is_alive(other)} {mine.id != owner.id} {mine.is_alive(owner.id)}"
            os.write(reported, told.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert os.read(report, 100).decode() == "True True True"
    assert _locked(owner.folder / owner.id)
    os.close(report)
    os.close(reported)


def test_a_place_that_takes_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting to change."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("bf_plugin.dispatch.owner.fcntl.lockf", refuse)

    with pytest.raises(ConfigurationError, match="BF_DATABASE_URL"):
        Owner(tmp_path / "locks")


def test_a_place_that_takes_no_files(tmp_path: Path) -> None:
    """It may be full, or somebody else's: that is another error than a network filesystem's."""
    folder = tmp_path / "file"
    folder.touch()

    with pytest.raises(ConfigurationError, match="free space on its disk"):
        Owner(folder)


def _locked(path: Path) -> bool:
    """Tell, in a process of its own, whether somebody holds a lock on `path`."""
    code = "import fcntl,sys; f=open(sys.argv[1],'r+'); fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code, str(path)], check=False, capture_output=True).returncode != 0


def test_marks_of_dead_processes_are_swept(owner: Owner, process: subprocess.Popen[str]) -> None:
    """Only those: not a living process's, and not one that may be about to be locked."""
    living = _name(process)
    for name in ("1-1-dead", "1-1-young"):
        (owner.folder / name).touch()
    for name in ("1-1-dead", living, owner.id):
        os.utime(owner.folder / name, (0, 0))

    owner.sweep()

    assert {path.name for path in owner.folder.iterdir()} == {owner.id, living, "1-1-young"}
    assert _locked(owner.folder / owner.id)
