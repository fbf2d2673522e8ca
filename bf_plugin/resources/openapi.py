"""The API's own description."""

from __future__ import annotations

import falcon

from bf_plugin.openapi import document


class OpenAPIResource:
    """`GET .../openapi.json`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Serve the document."""
        resp.media = document()
