"""What is measured, a process of its own: `python -m bf_plugin.bench.subject KIND`.

`gateway` is the plugin as operators run it, in waitress in front of a host app; `bare` is that host app alone; `loop`
is the OpenAI SDK's own async loop over the same streams, doing nothing with what it reads.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bf_plugin.bench.control import cpu_seconds, pin, quantiles, run, say
from bf_plugin.bench.stamps import since

APP_KEY = "BFAPI_bench-bench-bench"
MODEL = "bench"

_PAGE = b"hello from the host"


def host(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer a small page: the host app."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(_PAGE)))])
    return [_PAGE]


def usage() -> dict[str, Any]:
    """Return CPU seconds in all and by thread, resident memory in bytes, and the machine's clock."""
    return {"cpu": cpu_seconds(), "threads": _threads(), "rss": _rss(), "at": time.monotonic()}


def _threads() -> dict[str, float]:
    """Return the CPU seconds of each kind of thread (nanoseconds in Linux's schedstat; its stat counts whole ticks)."""
    found: dict[str, float] = {}
    for thread in threading.enumerate():
        try:
            spent = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii").split()[0]
        except OSError:
            continue
        name = thread.name.rstrip("-0123456789") or thread.name
        found[name] = found.get(name, 0.0) + int(spent) / 1e9
    return found


def _rss() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


class WsgiSubject:
    """A WSGI app in waitress on a free port, and commands on standard input."""

    def __init__(self, application: Any, *, threads: int) -> None:
        from waitress.server import create_server

        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # many starts at once are meant here
        server: Any = create_server(application, listen="127.0.0.1:0", threads=threads, channel_request_lookahead=1)
        threading.Thread(target=server.run, name="waitress", daemon=True).start()
        say({"port": server.effective_port})

    def obey(self) -> None:
        """Carry out commands until standard input ends."""
        for line in sys.stdin.buffer:
            if msgspec.json.decode(line)["command"] == "collect":
                gc.collect()
            say(usage())


class SdkLoop:
    """The baseline: the SDK's async client reads every event of every stream, sees how old it is, and drops it."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._read = 0
        self._took: list[float] = []

    async def run(self) -> None:
        """Obey: `read` begins so many streams, `usage` tells how far they are and how old text was since last time."""
        import openai

        loop = asyncio.get_running_loop()
        client: Any = openai.AsyncOpenAI(api_key="sk-bench", base_url=self._base_url, max_retries=0, timeout=600.0)
        commands: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def listen() -> None:
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(commands.put_nowait, msgspec.json.decode(line))
            loop.call_soon_threadsafe(commands.put_nowait, None)

        threading.Thread(target=listen, daemon=True).start()
        say({"port": 0})
        streams = set()
        while (command := await commands.get()) is not None:
            for _ in range(command.get("streams", 0)):
                streams.add(loop.create_task(self._follow(client)))
            took, self._took = self._took, []
            read = {"deltas": self._read, "took": quantiles(took), "open": sum(not task.done() for task in streams)}
            say({**usage(), **read})
        os._exit(0)  # closing thousands of streams in order takes longer than measuring them

    async def _follow(self, client: Any) -> None:
        stream = await client.responses.create(model=MODEL, input="Hi", stream=True, store=True, background=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                self._read += 1
                self._took.append(since(event.delta))


def _gateway(settings: dict[str, Any]) -> Any:
    from bf_plugin import Settings, mount
    from bf_plugin.runtime.memory import freeze_loaded

    application = mount(host, settings=Settings(**settings))
    application.start()
    freeze_loaded()
    return application


def main() -> None:
    """Be what the arguments say: KIND and a JSON object of settings."""
    kind, options = sys.argv[1], msgspec.json.decode(sys.argv[2].encode())
    pin(options.pop("core"))
    if kind == "loop":
        run(SdkLoop(options["base_url"]).run())
        return
    threads = options.pop("threads", 16)
    if kind == "bare":
        WsgiSubject(host, threads=threads).obey()
        return
    application = _gateway(options)
    WsgiSubject(application, threads=threads).obey()
    application.close()


if __name__ == "__main__":
    main()
