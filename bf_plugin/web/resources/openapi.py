"""The API's own description."""

from __future__ import annotations

from collections.abc import Sequence

import falcon

from bf_plugin.web.openapi import document


class OpenAPIResource:
    """`GET .../openapi.json`."""

    def __init__(self, providers: Sequence[str]) -> None:
        self._document = document(providers)

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Serve the document."""
        resp.media = self._document
