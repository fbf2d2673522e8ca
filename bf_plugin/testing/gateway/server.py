"""Serving a gateway on a free port, in threads."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any, cast

from waitress.server import create_server

from bf_plugin.testing.gateway.app import RecordingGateway

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class GatewayServer:
    """Serve `gateway`, or `app` around it, with waitress on 127.0.0.1.

        with GatewayServer(RecordingGateway()) as server:
            requests.get(server.url + "/hello")

    Each connected browser holds one of `threads`. Port 0 takes a free one.
    """

    def __init__(
        self,
        gateway: RecordingGateway,
        *,
        app: WSGIApplication | None = None,
        port: int = 0,
        threads: int = 24,
    ) -> None:
        self.gateway = gateway
        # Bound here: where that fails, waitress would leave its threads and the socket behind.
        listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._sockets: dict[int, Any] = {}
        server = create_server(
            app or gateway,
            map=self._sockets,
            sockets=[listener],
            threads=threads,
            # Reading on while a request is served is how waitress notices that a browser has gone.
            channel_request_lookahead=1,
            clear_untrusted_proxy_headers=True,
        )
        # Any: the stubs do not know the trigger that runs a function in the server's thread.
        self._server = cast("Any", server)
        self._thread = threading.Thread(target=self._server.run, name="gateway", daemon=True)

    def __enter__(self) -> GatewayServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End event streams and hanging requests, let the rest finish (5 s at most), close every socket."""
        self.gateway.close()
        # Tasks first: a task that finishes later would write to a wake-up pipe whose number may be someone else's.
        self._server.task_dispatcher.shutdown()
        trigger = self._server.trigger
        with trigger.lock:  # its loop may be awake anyway, and must not close the pipe before it is written to
            trigger.thunks.append(self._close_sockets)
            trigger.pull_trigger()
        self._thread.join(5)

    def _close_sockets(self) -> None:
        """Empty waitress' socket map, in its own thread; its loop then ends by itself."""
        for dispatcher in list(self._sockets.values()):
            dispatcher.close()
