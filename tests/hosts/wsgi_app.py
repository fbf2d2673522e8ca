"""A bare WSGI gateway that mounts the plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bf_plugin import mount


def gateway(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Stand in for the gateway's own pages, and echo what is sent to /echo."""
    path = environ["PATH_INFO"]
    if path == "/echo":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    else:
        body = f"hello from WSGI at {environ.get('SCRIPT_NAME', '')}{path}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


application = mount(gateway)
