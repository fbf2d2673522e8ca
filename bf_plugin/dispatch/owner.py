"""Who drives a run: a process, marked by a record lock that the system frees when it dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from pathlib import Path

from bf_plugin.errors import ConfigurationError

_YOUNG = 60.0


class Owner:
    """This process's mark: a locked file in a folder that all processes of the deployment share.

    `lockf` and not `flock`: a forked child would inherit the latter and hold a dead owner's lock. Record locks belong
    to the process, and closing any descriptor of the file frees them: so a file of this very process is never opened
    to try it, its existence decides.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = f"{os.getpid()}-{_started_at(os.getpid())}"
        self.id = f"{self._process}-{secrets.token_hex(4)}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / self.id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"cannot create {folder / self.id}: {error.strerror}; free space on its disk, or let this user write "
                "there"
            ) from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationError(
                f"{folder} does not take file locks ({error.strerror}): put BF_DATABASE_URL on a local disk"
            ) from None
        self._descriptor: int | None = descriptor
        self._path = str(folder / self.id)
        self._touched = 0

    def was_touched(self) -> bool:
        """Tell whether anybody has touched this mark since the last time this was asked: something is to be seen."""
        seen, self._touched = self._touched, os.stat(self._path).st_mtime_ns
        return seen != self._touched

    def is_alive(self, owner: str) -> bool:
        """Tell whether the process that made `owner` still holds it."""
        path = self.folder / owner
        if owner.startswith(self._process + "-"):
            return path.exists()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        finally:
            os.close(descriptor)
        return False

    def sweep(self) -> None:
        """Remove the marks that dead processes left. A young one may be about to be locked by its process."""
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # a sibling sweeps too; another user's mark is not ours to judge
                if time.time() - path.stat().st_mtime > _YOUNG and not self.is_alive(path.name):
                    path.unlink()

    def release(self) -> None:
        """Give up the mark: this process's runs are free to be taken. May be called again."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            (self.folder / self.id).unlink(missing_ok=True)
            os.close(descriptor)


def _started_at(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot (Linux, proc(5) field 22): pids are reused."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return "0"
