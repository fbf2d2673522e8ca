"""Programs that tests need and that Python does not bring: Node.js, npm, Chromium.

Each is looked for on the path first, where the machine's own npm knows its registry, then beside the running Python,
where packages of the group `test` put Node.js and npm. A missing one skips its tests with the reason; CI has to have
them all, so there it fails.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_CHROMIUM = "@sparticuz/chromium@153"
"""A Chromium in an npm package, for machines without one: built for Linux on x86-64, with the libraries it needs."""
_UNPACK = "const z=require('zlib');process.stdin.pipe(z.createBrotliDecompress()).pipe(process.stdout)"


@dataclass(frozen=True)
class Chromium:
    """A browser to launch with Playwright."""

    path: str
    environ: dict[str, str] = field(default_factory=dict)


def program(name: str) -> str:
    """Return where a program is."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), beside]))
    return found or missing(f"{name} is not installed")


def missing(what: str) -> str:
    """Skip a test for want of something, or let it fail where everything has to be there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def chromium() -> Chromium:
    """Return the installed browser, or one from npm that is kept in the user's cache."""
    if (found := shutil.which("chromium") or shutil.which("chromium-browser")) is not None:
        return Chromium(found)
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        missing("Chromium is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bf-plugin-tests"
    folder = cache / _CHROMIUM.replace("/", "-")
    cache.mkdir(parents=True, exist_ok=True)
    with cache.joinpath("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers look at the same time
        if not folder.exists():
            _download(folder)
    return Chromium(str(folder / "chromium"), {"LD_LIBRARY_PATH": str(folder / "lib")})


def _download(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place, "made")
        made.mkdir()
        command = [program("npm"), "pack", "--silent", _CHROMIUM]
        environ = os.environ | {
            "PATH": os.pathsep.join([str(Path(program("node")).parent), os.environ.get("PATH", "")])
        }
        done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=100)
        if done.returncode:
            missing(f"Chromium is not installed, and npm cannot get {_CHROMIUM}: {done.stderr.strip()[-300:]}")
        with tarfile.open(next(Path(place).glob("*.tgz"))) as package:
            package.extractall(place, filter="data")
        for name in ("chromium", "al2023.tar"):
            with Path(place, "package", "bin", f"{name}.br").open("rb") as packed, (made / name).open("wb") as unpacked:
                subprocess.run([program("node"), "-e", _UNPACK], stdin=packed, stdout=unpacked, check=True, timeout=100)
        (made / "chromium").chmod(0o755)
        with tarfile.open(made / "al2023.tar") as libraries:
            libraries.extractall(made, filter="data")
        made.rename(folder)
