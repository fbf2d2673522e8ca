"""The simulator as tests hold it: a server in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from aiohttp import web
from typing_extensions import Self

from bf_plugin.testing.provider.brain import Brain, Script
from bf_plugin.testing.provider.conversations import ConversationsApi
from bf_plugin.testing.provider.demo import DemoBrain
from bf_plugin.testing.provider.faults import Fault, Faults
from bf_plugin.testing.provider.generation import Generator
from bf_plugin.testing.provider.recording import RecordedRequest
from bf_plugin.testing.provider.responses import ResponsesApi
from bf_plugin.testing.provider.script import Answer
from bf_plugin.testing.provider.server import Server
from bf_plugin.testing.provider.state import ConversationRecord, ResponseRecord, Store


class ProviderSimulator:
    """A model provider on 127.0.0.1.

    Used as a context manager it raises, on the way out, what a brain of the test raised inside.

    `keys` None takes any key, `models` None any model. `delay` is what the demo brain waits between words, in seconds.
    `remember` bounds how many requests and finished responses are kept; None keeps all. What is kept outlives `stop`
    and `start`, and so does the port.
    """

    def __init__(
        self,
        *,
        brain: Brain | None = None,
        delay: float = 0.0,
        keys: Collection[str] | None = None,
        models: Sequence[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        remember: int | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._faults = Faults()
        self._store = Store(remember=remember)
        self._script = Script(brain or DemoBrain(delay=delay))
        self._generator = Generator(self._store, self._faults)
        responses = ResponsesApi(
            store=self._store, faults=self._faults, script=self._script, generator=self._generator, models=models
        )
        self._server = Server(
            responses=responses,
            conversations=ConversationsApi(self._store, self._faults),
            faults=self._faults,
            store=self._store,
            keys=keys,
            models=models,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and self._store.failures:
            raise self._store.failures[0]

    @property
    def base_url(self) -> str:
        """What to give a client as its base URL."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def brain(self) -> Brain:
        """What answers when nothing is scripted; may be replaced at any time."""
        return self._script.brain

    @brain.setter
    def brain(self, brain: Brain) -> None:
        self._script.brain = brain

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far, in order of arrival."""
        return list(self._server.requests)

    @property
    def responses(self) -> Mapping[str, ResponseRecord]:
        """Every response so far by id, oldest first, also those a client can no longer see."""
        return self._store.responses

    @property
    def conversations(self) -> Mapping[str, ConversationRecord]:
        """Every conversation by id."""
        return self._store.conversations

    @property
    def open_streams(self) -> int:
        """How many clients read a stream at this moment."""
        return self._store.open_streams

    def script(self, *answers: Answer) -> None:
        """Queue answers, one response each; they come before the brain's."""
        self._script.add(answers)

    def assert_script_used(self) -> None:
        """Raise AssertionError when a scripted answer was never asked for."""
        if unused := self._script.unused:
            raise AssertionError(f"{len(unused)} scripted answer(s) never asked for, the first: {unused[0]!r}")

    def fault(self, name: str, *, times: int | None = None, **arguments: Any) -> Fault:
        """Turn a fault on, for good or for the next `times` requests it applies to; see `SWITCHES`."""
        return self._faults.set(name, times=times, **arguments)

    def clear_faults(self, name: str | None = None) -> None:
        """Turn one fault off, or all."""
        self._faults.clear(name)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Block until `condition` holds; looked at on each request, event, commit and end of a stream."""
        if not self._store.changes.wait_for(condition, timeout):
            raise TimeoutError(f"the provider did not get there in {timeout} s")

    def reset(self) -> None:
        """Forget scripts, faults and recorded requests, but no response and no conversation."""
        self._script.clear()
        self._faults.clear()
        self._server.requests.clear()

    def start(self) -> None:
        """Listen; returns when the first request can come."""
        if self._thread is not None:
            raise RuntimeError("the simulator is already running")
        ready = threading.Event()
        self._failure = None
        self._thread = threading.Thread(target=self._run, args=(ready,), name="provider-simulator", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            raise self._failure

    def stop(self) -> None:
        """Close all connections and the port; idempotent."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as failure:
            self._failure = failure
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        runner = web.AppRunner(
            self._server.application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._host, self._port)
            await site.start()
            self._port = int(runner.addresses[0][1])
            ready.set()
            await self._stopping.wait()
        finally:
            await self._generator.stop()
            await runner.cleanup()
