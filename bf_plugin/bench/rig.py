"""The processes of one measurement, started, asked and ended from here."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import requests

from bf_plugin.bench.subject import APP_KEY, MODEL
from bf_plugin.errors import BFError
from bf_plugin.runtime.paths import PREFIX

_POLL = 0.05


class BenchError(BFError):
    """A measurement could not be made."""


class Process:
    """One process, and a way to ask it."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own modules
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        assert self._process.stdout is not None  # noqa: S101 - and so is this
        self._say, self._hear = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self.port: int = self._answer()["port"]

    def ask(self, command: str, **values: Any) -> dict[str, Any]:
        """Have a command carried out and return the answer."""
        line = msgspec.json.encode({"command": command, **values}) + b"\n"
        with self._lock:
            self._say.write(line)
            self._say.flush()
            return self._answer()

    def end(self) -> None:
        """End the process, as politely as it lets us."""
        with self._process:
            self._say.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self._hear.readline()
        if not line:
            self.end()
            raise BenchError(f"a process of the bench ended with {self._process.returncode}: its error is above")
        answer: dict[str, Any] = msgspec.json.decode(line)
        return answer


@dataclass(frozen=True, slots=True)
class Start:
    """A run that was started: its ids, and how long the answer took, in seconds."""

    ids: dict[str, str]
    took: float


class Rig:
    """A provider, a sink, and the processes measured between them. `core` is the core of what is measured."""

    def __init__(self, *, core: int | None, database_url: str | None = None) -> None:
        self._core = core
        self._database_url = database_url
        self._parts = ExitStack()
        self._folder = Path(self._parts.enter_context(tempfile.TemporaryDirectory(prefix="bf-bench-")))
        self._pool = self._parts.enter_context(ThreadPoolExecutor(32))
        self._local = threading.local()
        self.provider = self._process("bf_plugin.bench.provider")
        self.sink = self._process("bf_plugin.bench.sink")

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.close()

    @property
    def base_url(self) -> str:
        """Where the provider is."""
        return f"http://127.0.0.1:{self.provider.port}/v1"

    def gateway(self, *, database: str = "bench", **settings: Any) -> Process:
        """Start the plugin as operators run it; gateways of one `database` are siblings."""
        options = {
            "core": self._core,
            "api_keys": APP_KEY,
            "messaging_url": f"http://127.0.0.1:{self.sink.port}",
            "openai_base_url": self.base_url,
            "openai_api_key": "sk-bench",
            "model": MODEL,
            "database_url": self.url_of(database),
            "max_runs": 100_000,
            **settings,
        }
        return self._process("bf_plugin.bench.subject", "gateway", msgspec.json.encode(options).decode())

    def bare(self) -> Process:
        """Start the host app alone."""
        options = {"core": self._core}
        return self._process("bf_plugin.bench.subject", "bare", msgspec.json.encode(options).decode())

    def loop(self) -> Process:
        """Start the SDK's own loop."""
        options = {"core": self._core, "base_url": self.base_url}
        return self._process("bf_plugin.bench.subject", "loop", msgspec.json.encode(options).decode())

    def url_of(self, database: str) -> str:
        """Return the URL of a gateway's database."""
        return self._database_url or f"sqlite:///{self._folder / database}.db"

    def begin(self, *, rate: float, count: int) -> None:
        """Set the pace of the streams to come, and count from zero."""
        self.provider.ask("plan", rate=rate, count=count)
        self.provider.ask("reset")
        self.sink.ask("reset")

    def start(self, gateway: Process) -> Start:
        """Start one run; returns when it is answered."""
        payload = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        body = {"apiKey": APP_KEY, "channels": ["bench"], "actionName": "bench", "payload": payload}
        began = time.monotonic()
        answer = self._http().post(f"http://127.0.0.1:{gateway.port}{PREFIX}", json=body, timeout=60)
        took = time.monotonic() - began
        if answer.status_code != 201:
            raise BenchError(f"a start was answered {answer.status_code}: {answer.text[:300]}")
        return Start(answer.json(), took)

    def start_many(self, gateway: Process, count: int, *, per_second: float | None = None) -> list[Start]:
        """Start runs, as fast as they are answered or at a rate."""
        began = time.monotonic()

        def start(number: int) -> Start:
            if per_second is not None:
                time.sleep(max(0.0, began + number / per_second - time.monotonic()))
            return self.start(gateway)

        return list(self._pool.map(start, range(count)))

    def stop(self, gateway: Process, run: Start) -> float:
        """Stop a run; return when that was asked."""
        asked = time.monotonic()
        body = {"threadId": run.ids["threadId"], "runId": run.ids["runId"]}
        self._http().post(f"http://127.0.0.1:{gateway.port}{PREFIX}/stop", json=body, timeout=60).raise_for_status()
        return asked

    def wait(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait until something is so. Raises BenchError when it does not come to that."""
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up:
                raise BenchError(f"runs did not get on within {seconds:g} s")
            time.sleep(_POLL)

    def wait_for_ends(self, count: int, seconds: float = 300.0) -> None:
        """Wait until so many runs have ended."""
        self.wait(lambda: self.sink.ask("count")["ended"] >= count, seconds)

    @contextmanager
    def running(self, *processes: Process) -> Iterator[None]:
        """End processes after the block."""
        try:
            yield
        finally:
            for process in processes:
                process.end()

    def _process(self, module: str, *arguments: str) -> Process:
        process = Process(module, *arguments)
        self._parts.callback(process.end)
        return process

    def _http(self) -> requests.Session:
        """Return this thread's session: requests' sessions are not for several threads."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session
