"""What the tests stand on: a real Redis, a Socket.IO server in a process of its own, the client that browsers load."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bf_plugin.testing import ServerProcess

REDIS = shutil.which("redis-server")
NPM = shutil.which("npm")
GATEWAY = Path(__file__).with_name("socketio_gateway.py")


class RedisServer:
    """A Redis that keeps nothing, on a port that stays its own over `kill` and `start`.

    Started without one it is down. `arguments` are those of redis-server.
    """

    def __init__(self, folder: Path, *arguments: str, port_option: str = "--port") -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = int(listener.getsockname()[1])
        ports = {"--port": "0", port_option: str(self.port)}
        options = {**ports, "--bind": "127.0.0.1", "--save": "", "--dir": str(folder)}
        self._command = [str(REDIS), *(word for option in options.items() for word in option), *arguments]
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
        """Start it, and return once it takes connections."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._process.stdout is not None
        said = []
        for line in self._process.stdout:
            said.append(line)
            if "Ready to accept connections" in line:
                return self
        raise RuntimeError("redis-server did not start:\n" + "".join(said))

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture
def new_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Return a function that makes a `RedisServer`, which is down; all are killed after the test."""
    if REDIS is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with ExitStack() as stack:

        def make(*arguments: str, **options: str) -> RedisServer:
            redis = RedisServer(tmp_path, *arguments, **options)
            stack.callback(redis.kill)
            return redis

        yield make


@pytest.fixture
def redis(new_redis: Callable[..., RedisServer]) -> RedisServer:
    """A Redis that is up."""
    return new_redis().start()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts a Socket.IO server: `serve("async", redis)`, `serve("threads", redis, "/page")`."""
    with ExitStack() as stack:

        def start(kind: str, redis: RedisServer, namespace: str = "/") -> ServerProcess:
            server = ServerProcess("python", str(GATEWAY), kind, redis.url, namespace, cwd=tmp_path, environ={})
            stack.callback(server.kill)
            assert server.url
            return server

        yield start


@pytest.fixture(scope="session")
def browser_client(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The JavaScript of socket.io-client, as npm has it."""
    if NPM is None:
        pytest.skip("npm is not installed: apt-get install npm")
    folder = tmp_path_factory.mktemp("npm")
    command = [NPM, "pack", "--silent", "socket.io-client@4"]
    subprocess.run(command, cwd=folder, check=True, timeout=100, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("socket.io-client-*.tgz")
    with tarfile.open(archive) as package:
        script = package.extractfile("package/dist/socket.io.min.js")
        assert script is not None
        return script.read()
