"""The plugin as users run it: mounted on a recording gateway, served by waitress, with a simulated provider.

```python
with Deployment(folder=tmp_path, plugins=[my_hooks]) as deployed:
    deployed.provider.script("Hello")
    run = deployed.start("Hi")
    events = deployed.events(run)   # waits for `end`
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import requests
from cryptography.fernet import Fernet

from bf_plugin.engines.port import Engine
from bf_plugin.runtime.paths import PREFIX
from bf_plugin.settings import Settings
from bf_plugin.testing.gateway import GatewayServer, RecordingGateway
from bf_plugin.testing.provider import ProviderSimulator
from bf_plugin.web.mount import Application

APP_KEY = "BFAPI_demo"
PROVIDER_KEY = "sk-test-0123456789abcdef"
CHANNEL = "channel-1"
ACTION = "handleAssistantResponse"

Wsgi = Callable[..., Iterable[bytes]]


class Deployment:
    """Gateway, plugin, provider and server together. Further keyword arguments are settings.

    `plugins` are those of `mount`, `sections` the settings of plugins by name (`[plugins.NAME]` of the apps file).
    `wrap` puts WSGI middleware around the mounted app (a validator, a prefix); `inner` around the gateway. `prefix` is
    the path under which `wrap` serves it. Messages reach the gateway in-process, or with `messaging` http by a server
    of its own. With an `engine`, a `ScriptedEngine` for instance, there is no provider: it answers in its place.
    `engines` are those of other providers, by name.
    """

    def __init__(
        self,
        *,
        folder: Path,
        plugins: Iterable[object] = (),
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        provider: ProviderSimulator | None = None,
        engine: Engine | None = None,
        engines: Mapping[str, Engine] | None = None,
        gateway: RecordingGateway | None = None,
        wrap: Callable[[Wsgi], Wsgi] = lambda app: app,
        inner: Callable[[Wsgi], Wsgi] = lambda app: app,
        prefix: str = "",
        threads: int = 16,
        messaging: Literal["host", "http"] = "host",
        **settings: Any,
    ) -> None:
        self._own_provider = provider is None and engine is None
        self._provider = ProviderSimulator().__enter__() if self._own_provider else provider
        self._engine = engine
        self._engines = {**({} if engine is None else {"openai": engine}), **(engines or {})}
        self._plugins = tuple(plugins)
        self.gateway = gateway or RecordingGateway(keys=[APP_KEY])
        self._messaging = GatewayServer(self.gateway).__enter__() if messaging == "http" else None
        if self._messaging is not None:
            settings.setdefault("messaging_url", self._messaging.url)
        values = {
            "database_url": f"sqlite:///{folder / 'journal.db'}",
            "secret_key": Fernet.generate_key().decode(),
            "openai_base_url": None if self._provider is None else self._provider.base_url,
            "model": "gpt-test",
            "plugins": sections or {},
        }
        self.settings = Settings(**{**values, **settings})
        self._host = inner(self.gateway)
        self.application = self._mounted()
        served = wrap(lambda environ, start_response: self.application(environ, start_response))
        self._server = GatewayServer(self.gateway, app=served, threads=threads).__enter__()
        self.url = self._server.url + prefix
        self.http = requests.Session()

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything, the server first."""
        self.http.close()
        self._server.close()
        self.application.close()
        if self._messaging is not None:
            self._messaging.close()
        if self._provider is not None and self._own_provider:
            self._provider.stop()

    @property
    def provider(self) -> ProviderSimulator:
        """The simulated provider."""
        if self._provider is None:
            raise RuntimeError("there is no provider in this deployment: its engine was given")
        return self._provider

    @property
    def engine(self) -> Any:
        """The engine that was given; `requests` of a `ScriptedEngine` has what the model was asked."""
        if self._engine is None:
            raise RuntimeError("no engine was given to this deployment: `provider` has what the model was asked")
        return self._engine

    def restart(self) -> None:
        """Close the plugin and mount it again on the same journal, as a restart of the server does.

        Runs under way are handed over and taken over: their text is replayed through `on_delta`, tools that were
        called are not called again. Factories are called again; objects given as `plugins` stay what they are.
        """
        self.application.close()
        self.application = self._mounted()
        self.application.start()

    def body(self, text: str = "Hi", *, stream: bool = True, **payload: Any) -> dict[str, Any]:
        """Return the body of a start; `payload` adds to its payload."""
        messages = [{"role": "user", "content": text}]
        base = {"apiKey": PROVIDER_KEY, "stream": stream, "messages": messages}
        return {"apiKey": APP_KEY, "channels": [CHANNEL], "actionName": ACTION, "payload": {**base, **payload}}

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        """POST JSON to a path below our prefix, or to an absolute one (`/llm/...`)."""
        return self.http.post(self._url(path), json=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET a path below our prefix, or an absolute one."""
        return self.http.get(self._url(path), timeout=60, **options)

    def start(self, text: str = "Hi", **payload: Any) -> dict[str, Any]:
        """Start a streaming run; return the 201's body."""
        return _expect(201, self.post("", self.body(text, **payload)))

    def poll(self, text: str = "Hi", **payload: Any) -> dict[str, Any]:
        """Start a polling run; return the 200's body."""
        return _expect(200, self.post("", self.body(text, stream=False, **payload)))

    def stop(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Stop a run, given by the body of its start; return the 200's body."""
        return _expect(200, self.post("/stop", {"threadId": run["threadId"], "runId": run["runId"]}))

    def events(self, run: Mapping[str, Any], timeout: float = 20.0) -> list[dict[str, Any]]:
        """Wait for a run's `end` on the channel; return its events in the order of delivery."""
        return self.gateway.wait_for_end(run["runId"], timeout)

    def refused(self, status: int, body: Any, path: str = "", **options: Any) -> dict[str, Any]:
        """POST what is to be refused with `status`; return the error's body."""
        return _expect(status, self.post(path, body, **options))

    def wait_for_text(self, run: Mapping[str, Any], text: str, timeout: float = 10.0) -> None:
        """Wait until the channel has exactly this text of a run."""
        self.gateway.wait_for(lambda: self.text(run) == text, timeout)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of what the provider was asked to generate, in order."""
        return [request.body for request in self.provider.requests if request.operation == "create"]

    def text(self, run: Mapping[str, Any]) -> str:
        """Return a run's text as it was delivered, placed by offset."""
        return self.gateway.text(run["runId"])

    def _mounted(self) -> Application:
        return Application(
            self._host, name=None, settings=self.settings, plugins=self._plugins, engines=self._engines or None
        )

    def _url(self, path: str) -> str:
        return self.url + (path if path.startswith(("/llm", "/message", "/hello")) else PREFIX + path)


def _expect(status: int, response: requests.Response) -> dict[str, Any]:
    __tracebackhide__ = True
    assert response.status_code == status, f"{response.status_code}: {response.text}"  # noqa: S101 - for tests
    body: dict[str, Any] = response.json()
    return body
