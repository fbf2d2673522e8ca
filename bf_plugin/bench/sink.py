"""A fake gateway's messaging: `python -m bf_plugin.bench.sink`. Takes every message and looks at the times in it."""

from __future__ import annotations

import re
import time
from array import array
from typing import Any

from bf_plugin.bench.control import Cpu, pin, quantiles, run, serve_commands
from bf_plugin.bench.stamps import read_stamps
from bf_plugin.bench.wire import ServerConnection

_ACCEPTED = b'HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"success":true}'
_END = re.compile(rb'"type":"end".*?"runId":"([^"]+)"', re.DOTALL)


class Sink:
    """Counts messages and pieces of text, notes how long each piece took, and when runs ended."""

    def __init__(self) -> None:
        self._reset()

    def handle(self, connection: ServerConnection, method: str, path: str, body: bytes) -> None:
        """Take one message."""
        connection.write(_ACCEPTED)
        now = time.monotonic_ns()
        self._messages += 1
        for first, sent in read_stamps(body):
            took = (now - sent) / 1e9
            self._took.append(took)
            if first:
                self._first.append(took)
        if b'"type":"end"' in body:
            for run_id in _END.findall(body):
                self._ends[run_id.decode()] = now / 1e9

    def command(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command of the measuring process."""
        if name == "reset":
            self._reset()
        if name == "ends":
            return {"ends": self._ends}
        counts: dict[str, Any] = {"messages": self._messages, "deltas": len(self._took), "ended": len(self._ends)}
        if name == "latency":
            counts |= {"took": quantiles(self._took), "first": quantiles(self._first)}
        return {**counts, **self._cpu.since()}

    def _reset(self) -> None:
        self._messages = 0
        self._took, self._first = array("d"), array("d")
        self._ends: dict[str, float] = {}
        self._cpu = Cpu()


async def _main() -> None:
    sink = Sink()
    await serve_commands(lambda: ServerConnection(sink.handle), sink.command)


if __name__ == "__main__":
    pin(-1)
    run(_main())
