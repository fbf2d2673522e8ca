"""Servers for the tests, as the operator would configure them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


class Demo:
    """A server of `mcp_server.py`, its folder, and how to configure it."""

    def __init__(self, socket: str, folder: Path) -> None:
        self.folder = folder
        self._launcher = [str(HERE / "mcp_launcher.py"), socket, str(folder)]
        self._running: list[subprocess.Popen[str]] = []

    def stdio(self, *options: str, **settings: Any) -> dict[str, Any]:
        """Return the settings of a server that the plugin starts."""
        return {"command": sys.executable, "args": [*self._launcher, *options], "retry": 0.1, **settings}

    def http(self, *options: str, port: int = 0, **settings: Any) -> dict[str, Any]:
        """Start a server over HTTP; return its settings."""
        command = [sys.executable, *self._launcher, "--http", str(port), *options]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._running.append(server)
        assert server.stdout is not None
        found = re.search(r"listening on (\d+)", server.stdout.readline())
        assert found, "the server did not start"
        return {"url": f"http://127.0.0.1:{found[1]}/mcp", "retry": 0.1, **settings}

    def read(self, name: str) -> list[str]:
        """Return the lines of a file that the server writes."""
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self.folder / name).exists()

    def write(self, name: str, text: str = "") -> None:
        """Write a file that the server reads."""
        (self.folder / name).write_text(text)

    def kill(self) -> None:
        """Kill the server that was started last."""
        os.kill(int(self.read("starts")[-1]), signal.SIGKILL)

    def close(self) -> None:
        """End what still runs: servers over HTTP, and others if a test failed. Their launchers end by themselves."""
        for pid in self.read("starts"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for server in self._running:
            server.communicate(timeout=10)


@pytest.fixture(scope="session")
def forge() -> Iterator[str]:
    """The socket of a process that makes servers."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/socket"
        process = subprocess.Popen([sys.executable, str(HERE / "mcp_server.py"), socket], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield socket
        process.kill()
        process.communicate()


@pytest.fixture
def demo(forge: str, tmp_path: Path) -> Iterator[Demo]:
    """A server, not started yet."""
    folder = tmp_path / "demo"
    folder.mkdir()
    server = Demo(forge, folder)
    yield server
    server.close()


@pytest.fixture
def other(forge: str, tmp_path: Path) -> Iterator[Demo]:
    """Another server, not started yet."""
    folder = tmp_path / "other"
    folder.mkdir()
    server = Demo(forge, folder)
    yield server
    server.close()
