"""How a step reaches the server: its thread is made to hold what the conversation holds, then a run is started.

A run that was cut off leaves things behind: messages that no page has shown, a run that waits for outputs which will
never come and keeps everybody else off the thread. So what lies behind the state's `tail` is deleted, an active run is
cancelled and waited for, and where that does not help, or the thread is gone, another is made from the history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from bf_hook_assistants.api import Api
from bf_hook_assistants.assistant import Assistants
from bf_hook_assistants.mapping import Json, Said, outputs_for, resources_of, run_body, said_of
from bf_hook_assistants.place import Place
from bf_hook_assistants.problems import is_busy
from bf_hook_assistants.reply import Reply
from bf_hook_assistants.run import is_active
from bf_hook_assistants.section import Section
from bf_plugin import ProviderError
from bf_plugin.engines.port import StepRequest

_log = logging.getLogger(__name__)

_INLINE = 32
"""The most messages that may come with a new thread."""

_NO_SUCH_ROUTE = (404, 405, 501)


class UnusableError(Exception):
    """The thread is gone, or does not get rid of a run."""


class Turn:
    """One step on its way."""

    def __init__(self, request: StepRequest, api: Api, assistants: Assistants, section: Section) -> None:
        self._request = request
        self._api = api
        self._assistants = assistants
        self._section = section

    async def begin(self) -> tuple[Place, Reply]:
        """Return the run and the stream of its events, once the server has named it. Raises ProviderError."""
        place = self._kept()
        if place is not None:
            if (submitted := await self._submit(place)) is not None:
                return submitted
            try:
                return await self._go_on(place)
            except UnusableError as error:
                _log.info("a thread of the provider is left for a new one: %s", error)
        return await self._afresh()

    def _kept(self) -> Place | None:
        """Return where the thread stands, None if it is kept nowhere, or at another server."""
        state = self._request.state
        return Place.of(state) if state and state.get("server") == self._api.server else None

    async def _submit(self, place: Place) -> tuple[Place, Reply] | None:
        """Hand in the outputs a run waits for; None where there is no such run, or it does not wait any more."""
        outputs = outputs_for(place.calls, self._request.new)
        if not outputs or place.run is None:
            return None
        try:
            reply = await self._api.submit(place.thread, place.run, outputs)
        except ProviderError as problem:
            if problem.status in (400, 404, 409):
                _log.info("the provider's run takes no outputs, another goes on: %s", problem.message)
                return None
            raise
        answered = [call["call_id"] for call in place.calls]
        return await self._named(replace(place, calls=(), answered=answered), reply)

    async def _go_on(self, place: Place) -> tuple[Place, Reply]:
        """Start a run in the thread there is."""
        said = said_of(self._request.new, place.calls, self._request.tools)
        resources = resources_of(self._request.tools)
        system = [*place.system, *said.system]
        body = run_body(self._request, system)
        try:
            if place.calls:
                await self._quiet(place)
            if resources and resources != place.resources:
                await self._api.change_thread(place.thread, {"tool_resources": resources})
            tail = await self._brought(place, said)
        except ProviderError as problem:
            if problem.status == 404:
                raise UnusableError(problem.message) from None
            raise
        here = Place(
            server=place.server,
            thread=place.thread,
            tail=tail,
            system=system,
            resources=resources or place.resources,
        )
        return await self._run(here, body)

    async def _afresh(self) -> tuple[Place, Reply]:
        """Start a run in a new thread, made of all there is. A run that is refused leaves no thread behind."""
        items = [*(await self._request.history() if self._request.state else ()), *self._request.new]
        said = said_of(items, (), self._request.tools)
        body = run_body(self._request, said.system)
        resources = resources_of(self._request.tools)
        inline = min(_INLINE, max(len(said.messages) - 1, 0))  # the last one is added by itself, for its id
        given = {"messages": said.messages[:inline], "tool_resources": resources}
        thread = await self._api.create_thread({name: value for name, value in given.items() if value})
        place = Place(server=self._api.server, thread=thread, system=said.system, resources=resources)
        try:
            return await self._run(replace(place, tail=await self._add(thread, said.messages[inline:])), body)
        except ProviderError:
            await self._drop(thread)
            raise

    async def _brought(self, place: Place, said: Said) -> str | None:
        """Bring the thread to where the conversation is; return its newest message."""
        try:
            await self._purge(place)
            return await self._add(place.thread, said.messages) or place.tail
        except ProviderError as problem:
            if not is_busy(problem):
                raise
        await self._quiet(place)
        await self._purge(place)
        try:
            return await self._add(place.thread, said.messages) or place.tail
        except ProviderError as problem:
            if is_busy(problem):
                raise UnusableError(problem.message) from None
            raise

    async def _purge(self, place: Place) -> None:
        """Delete what a run that was cut off has left in the thread, and what was said for a run that was refused."""
        for message in await self._api.messages(place.thread, after=place.tail):
            try:
                await self._api.delete_message(place.thread, str(message.get("id")))
            except ProviderError as problem:
                if problem.status in _NO_SUCH_ROUTE:
                    raise UnusableError("the server does not delete messages") from None
                raise

    async def _add(self, thread: str, messages: Sequence[Json]) -> str | None:
        newest = None
        for message in messages:
            newest = await self._api.add_message(thread, message)
        return newest

    async def _quiet(self, place: Place) -> None:
        """Cancel what still runs in the thread and wait until it is over. Raises UnusableError when that takes long."""
        latest = time.monotonic() + self._section.cancel_seconds
        told: set[str] = set()
        while active := [str(run.get("id")) for run in await self._api.runs(place.thread) if is_active(run)]:
            for run in sorted(set(active) - told):
                await self._api.cancel(place.thread, run)
            told.update(active)
            if time.monotonic() > latest:
                raise UnusableError("it does not get rid of a run")
            await asyncio.sleep(self._section.poll_seconds)

    async def _run(self, place: Place, body: Json) -> tuple[Place, Reply]:
        model = self._request.model
        try:
            reply = await self._api.create_run(place.thread, {**await self._assistants.pick(self._api, model), **body})
        except ProviderError as problem:
            if problem.status != 404 or not await self._assistants.renew(self._api, model):
                raise
            reply = await self._api.create_run(place.thread, {**await self._assistants.pick(self._api, model), **body})
        return await self._named(place, reply)

    async def _named(self, place: Place, reply: Reply) -> tuple[Place, Reply]:
        try:
            return replace(place, run=await reply.named()), reply
        except BaseException:
            reply.close()
            raise

    async def _drop(self, thread: str) -> None:
        try:
            await self._api.delete_thread(thread)
        except ProviderError as problem:
            _log.warning("the provider keeps a thread that is not used: %s", problem.message)
