"""A server that answers requests with what was scripted, in order."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from providers_support.dialect import Request
from providers_support.script import Answer, Pause


class Wire:
    """Answers requests with what was scripted, in order."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._answers: deque[Answer] = deque()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def script(self, *answers: Answer) -> None:
        self._answers.extend(answers)

    def reset(self) -> int:
        """Forget what was asked; return how many answers nobody asked for."""
        left = len(self._answers)
        self.requests.clear()
        self._answers.clear()
        return left

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(wire) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                path, _, query = self.path.partition("?")
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(self.rfile.read(length) or b"null")
                wire.requests.append(Request("POST", path, query, headers, body))
                answer = wire._answers.popleft() if wire._answers else Answer([b"nothing scripted"], 500)
                with suppress(OSError):  # the client is gone
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in answer.pieces:
                    if isinstance(piece, Pause):
                        self._wait(piece)
                    elif piece:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                if answer.complete:
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True

            def _wait(self, pause: Pause) -> None:
                pause.reached.set()
                while not pause.over.wait(0.01):
                    readable, _, _ = select.select([self.connection], [], [], 0)
                    if readable and not self.connection.recv(1, socket.MSG_PEEK):
                        pause.left.set()
                        raise ConnectionError("the client is gone")

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
