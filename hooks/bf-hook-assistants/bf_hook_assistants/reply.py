"""The answer to a request for a stream: the events of one run, for as long as the connection lasts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import aiohttp

from bf_hook_assistants.problems import failure
from bf_hook_assistants.sse import BrokenStreamError, Decoder, Frame
from bf_plugin import ProviderError


class Reply:
    """Read once, batch by batch, and closed by who asked for it. `key` is what no error may quote."""

    def __init__(self, response: aiohttp.ClientResponse, key: str) -> None:
        self._response = response
        self._key = key
        self._decoder = Decoder()
        self._before: list[Frame] = []

    async def named(self) -> str:
        """Read until the server says which run this is, and return the run's id; nothing is lost for `batch`.

        Raises ProviderError for an error, or an end, before that: nobody knows then what the server does.
        """
        while (frames := await self._read()) is not None:
            self._before += frames
            for event, data in frames:
                if event == "error":
                    raise failure(data, self._key)
                if is_run(event) and isinstance(data, Mapping) and data.get("id"):
                    return str(data["id"])
        raise ProviderError("the provider broke off before it named the run", code="provider_unreachable")

    async def batch(self) -> list[Frame] | None:
        """Return the events of one network read, None when there is no more.

        A connection that breaks, falls silent or says what is no JSON has no more, too: only an event of the run says
        that the run is over.
        """
        before, self._before = self._before, []
        return before or await self._read()

    def close(self) -> None:
        """Let go of the connection; what the server does goes on."""
        self._response.close()

    async def _read(self) -> list[Frame] | None:
        try:
            if "json" in self._response.content_type:
                return await self._read_run()
            while chunk := await self._response.content.readany():
                if frames := self._decoder.feed(chunk):
                    return frames
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, BrokenStreamError):
            pass
        return None

    async def _read_run(self) -> list[Frame] | None:
        """Return what a server says that does not stream: the run itself, once."""
        body = b"" if self._response.content.at_eof() else await self._response.read()
        try:
            run = json.loads(body)
        except ValueError:
            return None
        return [(f"thread.run.{run.get('status')}", run)] if isinstance(run, dict) else None


def is_run(event: str) -> bool:
    """Tell whether an event brings a run, and not a step of one."""
    return event.startswith("thread.run.") and not event.startswith("thread.run.step.")
