"""The demo's gateway: BetterForms-style messaging and the chat page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from bf_plugin.browser import handler_source
from bf_plugin.testing.gateway.app import Answer, RecordingGateway

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

DEMO_KEY = "BFAPI_demo"
PUBLISHED_KEY = "BFAPI_xxxxxxxx-xxxxxx-xxxxxx"
"""The key of the published example request, so that it can be sent here as it stands."""

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class DemoGateway(RecordingGateway):
    """Serves the page, the shipped handler and `config`, what the page is told about this demo."""

    headers = (
        ("Content-Security-Policy", "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    )

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(keys=(DEMO_KEY, PUBLISHED_KEY))
        page = resources.files("bf_plugin.demo") / "page"
        self._files = {f"/{file.name}": file.read_bytes() for file in page.iterdir() if file.is_file()}
        self._files["/"] = self._files["/index.html"]
        self._files["/browser/handler.js"] = handler_source().encode()
        self._config = json.dumps({**config, "apiKey": DEMO_KEY}).encode()

    def route(self, method: str, path: str, environ: WSGIEnvironment) -> Answer:
        """Answer with a file of the page, else as any gateway."""
        if method == "GET" and path == "/config.json":
            return 200, "application/json", [self._config]
        if method == "GET" and path in self._files:
            kind = _TYPES[path.rpartition(".")[2]] if path != "/" else "text/html"
            return 200, f"{kind}; charset=utf-8", [self._files[path]]
        return super().route(method, path, environ)
