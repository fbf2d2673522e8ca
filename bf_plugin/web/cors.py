"""Pages of other origins (the Fetch standard's CORS protocol): off unless the operator names them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import falcon

from bf_plugin.errors import ConfigurationError

_ORIGIN = re.compile(r"^[a-z][a-z0-9+.-]*://[^/?#@\s*]+$")
_SENT = "Content-Type, X-Thread-Id, Last-Event-ID, X-Request-ID"
_READ = "X-Request-ID, Retry-After"
_MAX_AGE = "600"


class Resource:
    """What all our Falcon resources inherit."""

    cross_origin: Sequence[str] = ()
    """The methods that pages of other origins may use.

    Never those that start runs or delete threads: they take the app key, which no page of another origin should hold.
    """


class CrossOrigin:
    """Falcon middleware: lets pages of `origins` use the resources that say so. Credentials are never allowed.

    Raises ConfigurationError for anything but an origin: it would match nothing, in silence.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        for origin in origins:
            if not _ORIGIN.match(origin):
                raise ConfigurationError(
                    f"BF_CORS_ORIGINS: {origin} is not an exact origin such as https://app.example.com (no path, no *)"
                )
        self._origins = frozenset(origins)

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: object, params: Any) -> None:
        """Say what a page may do, before the resource answers; answer a preflight here."""
        methods = resource.cross_origin if isinstance(resource, Resource) else ()
        if not (self._origins and methods):
            return
        resp.append_header("Vary", "Origin")
        allowed = req.get_header("Origin") in self._origins
        if allowed:
            resp.set_header("Access-Control-Allow-Origin", req.get_header("Origin", required=True))
            resp.set_header("Access-Control-Expose-Headers", _READ)
        if req.method == "OPTIONS":
            resp.status = falcon.HTTP_204
            resp.complete = True
            resp.set_header("Allow", ", ".join((*methods, "OPTIONS")))
            if allowed:
                resp.set_header("Access-Control-Allow-Methods", ", ".join(methods))
                resp.set_header("Access-Control-Allow-Headers", _SENT)
                resp.set_header("Access-Control-Max-Age", _MAX_AGE)
