"""A gateway with the plugin and a tool that leaves a trace, for the tests that kill its workers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bf_plugin import Toolbox, ToolCall, mount

tools = Toolbox("chaos")


@tools.tool(timeout=20)
def note(call: ToolCall, word: str) -> str:
    """Note a word, slowly, in a file that outlives the process."""
    _trace(f"started {call.idempotency_key}")
    time.sleep(0.05)
    _trace(f"done {call.idempotency_key}")
    return f"noted {word}"


def _trace(line):
    descriptor = os.open(Path(os.environ["CHAOS_TRACE"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def gateway(environ, start_response):
    """Answer with the process that answers."""
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


application = mount(gateway, plugins=[tools])
