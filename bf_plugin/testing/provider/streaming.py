"""Sends the events of a response to one client, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator, Mapping

from aiohttp import web

from bf_plugin.testing.provider.exchange import drop
from bf_plugin.testing.provider.faults import Fault, Faults
from bf_plugin.testing.provider.state import ResponseRecord, Store

_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
_KEEPALIVE = b'event: keepalive\ndata: {"type":"keepalive"}\n\n'
_BREAKS = ("stream_drops", "stream_ends", "stream_hangs")
_SIZES = (1, 2, 3, 7, 20, 100, 700)
_NUMBER = re.compile(rb'"sequence_number":\d+')


class Wire:
    """One open stream: writes bytes, in pieces if a fault says so, and breaks off after `limit` bytes."""

    def __init__(self, request: web.Request, chunking: Fault | None, limit: int | None) -> None:
        self._request = request
        self._response = web.StreamResponse(headers=_HEADERS)
        self._chunking = chunking
        self._random = random.Random(chunking["seed"] if chunking else None)  # noqa: S311 - not for secrets
        self._limit = limit
        self._sent = 0

    async def open(self, headers: Mapping[str, str]) -> None:
        """Send the head."""
        self._response.headers.update(headers)
        await self._response.prepare(self._request)

    @property
    def limited(self) -> bool:
        """Tell whether it breaks off at a byte rather than after an event."""
        return self._limit is not None

    async def write(self, data: bytes) -> None:
        """Send bytes; raises EOFError when the limit is reached."""
        if self._limit is not None:
            data = data[: self._limit - self._sent]
        for piece in self._pieces(data):
            await self._response.write(piece)
            if self._chunking is not None:
                await asyncio.sleep(self._chunking["delay"])
        self._sent += len(data)
        if self._sent == self._limit:
            raise EOFError

    async def end(self) -> web.StreamResponse:
        """Finish the stream as HTTP wants it."""
        await self._response.write_eof()
        return self._response

    def drop(self) -> web.StreamResponse:
        """Close the socket without finishing the stream."""
        drop(self._request)
        return self._response

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while start < len(data):
            end = self._cut(start, len(data)) if self._chunking else len(data)
            yield data[start:end]
            start = end

    def _cut(self, start: int, length: int) -> int:
        assert self._chunking is not None  # noqa: S101 - asked only then
        positions, size = self._chunking["positions"], self._chunking["size"]
        if positions is not None:
            later: list[int] = [place - self._sent for place in positions if place - self._sent > start]
            return min([*later, length])
        step: int = size or self._random.choice(_SIZES)
        return min(start + step, length)


class Streamer:
    """Sends streams and applies the faults of the way."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    async def send(
        self, request: web.Request, record: ResponseRecord, *, on: str, start: int, headers: Mapping[str, str]
    ) -> tuple[web.StreamResponse, bool]:
        """Send the events from index `start`; the flag tells whether a foreground response may go on afterwards."""
        fault = next(filter(None, (self._faults.take(name, on=on) for name in _BREAKS)), None)
        limit = fault["after_bytes"] if fault and fault.name == "stream_drops" else None
        wire = Wire(request, self._faults.take("chunking", on=on), limit)
        await wire.open(headers)
        self._store.open_streams += 1
        try:
            return await self._send(wire, record, on, start, fault)
        finally:
            self._store.open_streams -= 1
            self._store.changes.notify()

    async def _send(
        self, wire: Wire, record: ResponseRecord, on: str, start: int, fault: Fault | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            if on == "resume" and (shift := self._faults.take("resume_shifted")):
                await self._copy_shifted(wire, record, start, shift)
            elif fault is not None and not wire.limited:
                await self._copy_until(wire, record, start, fault["after"])
            else:
                await self._copy(wire, record, start)
        except EOFError:
            return wire.drop(), fault is not None and fault["goes_on"]
        return await self._finish(wire, fault)

    async def _finish(self, wire: Wire, fault: Fault | None) -> tuple[web.StreamResponse, bool]:
        if fault is None or fault.name == "stream_ends":
            return await wire.end(), fault is None or fault["goes_on"]
        if fault.name == "stream_drops":
            return wire.drop(), fault["goes_on"]
        while fault["keepalive"]:
            await asyncio.sleep(fault["keepalive"])
            await wire.write(_KEEPALIVE)
        await asyncio.Event().wait()
        return wire.drop(), True

    async def _copy(self, wire: Wire, record: ResponseRecord, position: int) -> None:
        log = record.log
        while await log.beyond(position):
            frames = log.frames[position:]
            await wire.write(b"".join(frames))
            position += len(frames)

    async def _copy_until(self, wire: Wire, record: ResponseRecord, start: int, after: int | None) -> None:
        """Send `after` events, or all but the last one."""
        log, position = record.log, start
        while await log.beyond(position if after is not None else position + 1):
            end = len(log.frames) - 1 if after is None else min(len(log.frames), start + after)
            await wire.write(b"".join(log.frames[position:end]))
            position = end
            if after is not None and position >= start + after:
                return

    async def _copy_shifted(self, wire: Wire, record: ResponseRecord, start: int, shift: Fault) -> None:
        log = record.log
        await log.beyond(start + shift["skip"])
        position = min(start + shift["skip"], len(log.frames))
        if not shift["repeat"]:
            return await self._copy(wire, record, position)
        top = max((place for place in log.item_starts.values() if place < position), default=position)
        if not shift["renumber"]:
            return await self._copy(wire, record, top)
        number = position
        while await log.beyond(top):
            frame = _NUMBER.sub(b'"sequence_number":%d' % number, log.frames[top], count=1)
            await wire.write(frame)
            top, number = top + 1, number + 1
        return None
