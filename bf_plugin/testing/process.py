"""The plugin in server processes of their own, as operators run it: what `Deployment` is within one process.

```python
with Site(folder=tmp_path) as site:
    server = site.serve("bf-plugin", "serve", "--listen", "127.0.0.1:0")
    run = site.start(server.url, "Hi")
    server.kill()                               # as a crash would
```
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import requests

from bf_plugin.runtime.paths import PREFIX
from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.provider import ProviderSimulator

_URL = re.compile(r"(?:listening at|serving on):? (https?://[\w.]+:\d+)", re.IGNORECASE)


class ServerProcess:
    """A server that says where it listens, as bf-plugin, waitress and gunicorn do. Its output is kept in `output`.

    `command` is looked up beside the running interpreter, so that it is that of this environment.
    """

    def __init__(self, command: str, *arguments: str, cwd: Path, environ: Mapping[str, str]) -> None:
        program = Path(sys.executable).with_name(command)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BF_", "OPENAI_"))}
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._process = subprocess.Popen(  # noqa: S603 - for tests
            [str(program), *arguments],
            cwd=cwd,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that `kill` ends its workers too
        )
        self._reader = threading.Thread(target=self._read, name="server-output", daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """Where it listens; waits until it has said so. Raises RuntimeError with its output if it ends before."""
        return self.wait_for(_URL).group(1)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything it has written so far, standard error included."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: re.Pattern[str] | str, timeout: float = 60.0) -> re.Match[str]:
        """Wait until `pattern` is in the output. Raises RuntimeError that quotes the output if it does not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or re.search(pattern, "".join(self._lines)), timeout)
            output = "".join(self._lines)
        match = re.search(pattern, output)
        if match is None:
            raise RuntimeError(f"{pattern} is not in the server's output:\n{output}")
        return match

    def kill(self) -> None:
        """End it and its workers as a crash of the machine would, without a chance to clean up."""
        with suppress(ProcessLookupError):  # they have ended by themselves
            os.killpg(self._process.pid, signal.SIGKILL)
        self._gone()

    def stop(self) -> int:
        """End it politely (SIGTERM) and return its exit code."""
        self._process.terminate()
        return self._gone()

    def wait(self, timeout: float = 30.0) -> int:
        """Wait until it ends by itself and return its exit code."""
        return self._gone(timeout)

    def _gone(self, timeout: float = 30.0) -> int:
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - for mypy
        with self._process.stdout as output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Site:
    """A gateway's messaging, a provider, and the environment that points servers to them.

    `environ` holds the settings that servers get, with one database for all of them in `folder`.
    """

    def __init__(self, *, folder: Path) -> None:
        self.folder = folder
        self._parts = ExitStack()
        self._servers: list[ServerProcess] = []
        self.gateway = RecordingGateway(keys=[APP_KEY])
        self.provider = self._parts.enter_context(ProviderSimulator())
        messaging = self._parts.enter_context(GatewayServer(self.gateway))
        self.http = self._parts.enter_context(requests.Session())
        # One kept open may be that of a worker which is killed, or closes it, just when the next request is sent.
        self.http.headers["Connection"] = "close"
        self.environ = {
            "BF_API_KEYS": APP_KEY,
            "BF_DATABASE_URL": f"sqlite:///{folder / 'site.db'}",
            "BF_MESSAGING_URL": messaging.url,
            "BF_MODEL": "gpt-test",
            "BF_OPENAI_BASE_URL": self.provider.base_url,
        }

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.kill()
        self._parts.close()

    def serve(self, command: str, *arguments: str, cwd: Path | None = None, **environ: str) -> ServerProcess:
        """Start a server with the site's environment and `environ`; it is killed with the site."""
        server = ServerProcess(command, *arguments, cwd=cwd or self.folder, environ={**self.environ, **environ})
        self._servers.append(server)
        return server

    def post(self, url: str, path: str, body: Any) -> requests.Response:
        """POST JSON to a path below the endpoint of a server."""
        return self.http.post(url + PREFIX + path, json=body, timeout=60)

    def start(self, url: str, text: str = "Hi", *, stream: bool = True, **payload: Any) -> dict[str, Any]:
        """Start a run at a server and return the answer's body."""
        base = {"apiKey": PROVIDER_KEY, "stream": stream, "messages": [{"role": "user", "content": text}]}
        body = {"apiKey": APP_KEY, "channels": [CHANNEL], "actionName": ACTION, "payload": {**base, **payload}}
        answer = self.post(url, "", body)
        assert answer.status_code == (201 if stream else 200), answer.text  # noqa: S101 - for tests
        content: dict[str, Any] = answer.json()
        return content

    def stop(self, url: str, run: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a run, given by its start's answer, and return the answer's body."""
        content: dict[str, Any] = self.post(url, "/stop", {"threadId": run["threadId"], "runId": run["runId"]}).json()
        return content

    def events(self, run: Mapping[str, Any], timeout: float = 20.0) -> list[dict[str, Any]]:
        """Wait for a run's `end` at the gateway and return its events."""
        return self.gateway.wait_for_end(run["runId"], timeout)
