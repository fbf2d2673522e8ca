"""The demo as one context manager: provider, gateway, plugin, server."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bf_plugin import mount
from bf_plugin.demo.brain import TalkativeBrain
from bf_plugin.demo.gateway import DemoGateway
from bf_plugin.demo.weather import weather_tools
from bf_plugin.errors import ConfigurationError
from bf_plugin.settings import Settings, load_settings
from bf_plugin.testing.gateway.server import GatewayServer
from bf_plugin.testing.provider import ProviderSimulator
from bf_plugin.testing.provider.demo import DemoBrain

_INSTRUCTIONS = "You are a helpful assistant on a demonstration page. Be brief."
_SIMULATED = "A simulated provider answers here: no key is needed and nothing leaves this machine."
_REAL = "A real provider answers here, with the key and model of this machine's environment."
_MODEL = "demo"


class Demo:
    """Runs the demo while entered; `url` is the page. `settings` override the environment's.

    Raises ConfigurationError where a real provider is asked for without a model, OSError when the port is taken.
    """

    def __init__(self, *, port: int = 0, pace: float = 0.03, **settings: Any) -> None:
        self._port = port
        self._pace = pace
        self._overrides = settings
        self._parts = ExitStack()
        self.provider: ProviderSimulator | None = None
        self.url = ""

    def __enter__(self) -> Demo:
        with ExitStack() as parts:
            settings = self._settings(parts)
            config = {
                "model": settings.model,
                "instructions": _INSTRUCTIONS,
                "provider": "Simulated provider" if self.provider else "Real provider",
                "about": _SIMULATED if self.provider else _REAL,
            }
            self.gateway = DemoGateway(config)
            self.application = mount(self.gateway, name="demo", settings=settings, plugins=weather_tools())
            parts.callback(self.application.close)
            self.application.start()
            server = GatewayServer(self.gateway, app=self.application, port=self._port)
            self.url = parts.enter_context(server).url
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._parts.close()

    def _settings(self, parts: ExitStack) -> Settings:
        """Return the settings, with a simulated provider and a database for this demo only where none is set."""
        values: dict[str, Any] = {"api_keys": None, "apps_file": None, "messaging_url": None}
        if not os.environ.get("BF_DATABASE_URL"):
            folder = parts.enter_context(tempfile.TemporaryDirectory(prefix="bf-plugin-demo-"))
            values["database_url"] = f"sqlite:///{Path(folder) / 'demo.sqlite3'}"
        own_key = os.environ.get("OPENAI_API_KEY")
        if own_key:
            values["openai_api_key"] = SecretStr(own_key)
        elif not os.environ.get("BF_OPENAI_BASE_URL"):
            brain = TalkativeBrain(DemoBrain(delay=self._pace), delay=self._pace)
            self.provider = parts.enter_context(ProviderSimulator(brain=brain))
            simulated = {"openai_base_url": self.provider.base_url, "openai_api_key": SecretStr("sk-demo")}
            values.update(simulated, model=_MODEL)
        settings = load_settings(**{**values, **self._overrides})
        if settings.model is None:
            raise ConfigurationError("BF_MODEL: set it to a model that the provider of this demo has")
        return settings
