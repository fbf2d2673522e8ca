"""What the tests stand on: a real Redis, a Socket.IO server in a process of its own, the client that browsers load."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bf_plugin.testing import ServerProcess

GATEWAY = Path(__file__).with_name("socketio_gateway.py")


def program(name: str, package: str) -> str:
    """Return where a program is. Without it the test is skipped; but CI, which has to install it, fails."""
    beside = str(Path(sys.executable).parent)  # where packages of the group `test` put programs
    found = shutil.which(name) or shutil.which(name, path=beside)
    if found is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"{name} is not installed: apt-get install {package}")
    return str(found)


class RedisServer:
    """A Redis that keeps nothing, on a port that stays its own over `kill` and `start`.

    Started without one it is down. `arguments` are those of redis-server.
    """

    def __init__(self, folder: Path, *arguments: str, port_option: str = "--port") -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        ports = {"--port": "0", port_option: str(self.port)}
        options = {**ports, "--bind": "127.0.0.1", "--save": "", "--dir": str(folder)}
        self._command = [
            program("redis-server", "redis-server"),
            *(word for option in options.items() for word in option),
            *arguments,
        ]
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """As python-socketio takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def messaging_url(self) -> str:
        """As the plugin takes it."""
        return f"socketio+{self.url}"

    def start(self) -> RedisServer:
        """Start it unless it is up, and return once it takes connections."""
        if self._process is not None:
            return self
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                return self
        raise RuntimeError("redis-server did not start:\n" + "".join(said))

    def freeze(self) -> None:
        """Let it stand still: connections are taken, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on with what it was sent meanwhile."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def new_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that makes a `RedisServer`, which is down; all are killed after the tests of a file."""
    with ExitStack() as stack:

        def make(*arguments: str, **options: str) -> RedisServer:
            redis = RedisServer(tmp_path_factory.mktemp("redis"), *arguments, **options)
            stack.callback(redis.kill)
            return redis

        yield make


@pytest.fixture
def redis(new_redis: Callable[..., RedisServer]) -> Iterator[RedisServer]:
    """A Redis that is up."""
    redis = new_redis().start()
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts a Socket.IO server of a kind, `async` or `threads`, on a Redis."""
    with ExitStack() as stack:

        def start(kind: str, redis: RedisServer) -> ServerProcess:
            folder = tmp_path_factory.mktemp(kind)
            server = ServerProcess("python", str(GATEWAY), kind, redis.url, cwd=folder, environ={})
            stack.callback(server.kill)
            return server

        yield start


@pytest.fixture(scope="session")
def browser_client(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The JavaScript of socket.io-client, as npm has it."""
    folder = tmp_path_factory.mktemp("npm")
    command = [program("npm", "npm"), "pack", "--silent", "socket.io-client@4"]
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])  # npm needs node
    subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, check=True, timeout=100, stdout=subprocess.DEVNULL
    )
    (archive,) = folder.glob("socket.io-client-*.tgz")
    with tarfile.open(archive) as package:
        script = package.extractfile("package/dist/socket.io.min.js")
        assert script is not None
        return script.read()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is."""
    return program("chromium", "chromium")
