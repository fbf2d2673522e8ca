"""The engine: one thread of the server for each conversation, one of its runs for each round of questions and tools."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from bf_hook_assistants.api import Api, Session
from bf_hook_assistants.assistant import Assistants
from bf_hook_assistants.place import Place
from bf_hook_assistants.run import is_active, usage_of
from bf_hook_assistants.section import Section
from bf_hook_assistants.stream import RunStream
from bf_hook_assistants.turn import Turn
from bf_plugin import PluginStore, ProviderError, Usage
from bf_plugin.engines.port import Access, Cursor, Handle, State, StepRequest

_log = logging.getLogger(__name__)


class AssistantsEngine:
    """Implements the port's Engine. A run of the server takes several steps: it waits while its calls are answered."""

    def __init__(self, section: Section, *, store: PluginStore) -> None:
        self._section = section
        self._session = Session()
        self._assistants = Assistants(section, store)

    async def start(self, request: StepRequest, access: Access) -> RunStream:
        """Start a run, or hand in what the calls of one have answered; return once the server has named it."""
        api = await self._api(access)
        try:
            place, reply = await Turn(request, api, self._assistants, self._section).begin()
        except ProviderError as problem:
            if problem.status == 401 and not api.key:
                raise _keyless() from None
            raise
        return RunStream(place, api, reply=reply, poll_seconds=self._section.poll_seconds)

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> RunStream:
        """Ask about a run that an earlier process was listening to, until it is over, and for its messages."""
        api = await self._api(access)
        return RunStream(Place.of(handle), api, known=cursor.texts, poll_seconds=self._section.poll_seconds)

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        """Cancel a run, wait until it is over, and return its usage."""
        api, place = await self._api(access), Place.of(handle)
        run_id = place.run or ""
        await api.cancel(place.thread, run_id)
        latest = time.monotonic() + self._section.cancel_seconds
        try:
            while True:
                run = await api.run(place.thread, run_id)
                if not is_active(run) or time.monotonic() > latest:
                    return usage_of(run)
                await asyncio.sleep(self._section.poll_seconds)
        except ProviderError as problem:
            if problem.status == 404:
                return None
            raise

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        """Return the same state: what lies behind its `tail` is tidied up by the next step.

        Where there was none, all of the thread that the run has begun lies behind it.
        """
        return state if state is not None or handle is None else Place.of(handle).emptied()

    async def forget(self, names: Sequence[Handle], access: Access) -> bool:
        """Delete the threads that handles and a state name; tell whether nothing of them is left."""
        api = await self._api(access)
        gone = True
        for thread in dict.fromkeys(str(name["thread"]) for name in names if name.get("server") == api.server):
            try:
                await api.delete_thread(thread)
            except ProviderError as problem:
                if problem.status != 404:
                    _log.warning("the provider keeps a deleted thread: %s", problem.message)
                    gone = False
        return gone and all(name.get("server") == api.server for name in names)

    async def aclose(self) -> None:
        """Close connections."""
        await self._session.aclose()

    async def _api(self, access: Access) -> Api:
        """Return the server as this access sees it. Raises ProviderError where none is set up."""
        if self._section.base_url is None:
            raise ProviderError("provider assistants is not set up: [plugins.assistants] has no base_url", status=400)
        key = access.api_key or await self._operators_key()
        return Api(self._session, self._section, key=key, whose=access.api_key, request_id=access.request_id)

    async def _operators_key(self) -> str:
        try:
            return await asyncio.to_thread(self._section.key)
        except ValueError as error:
            _log.error("[plugins.assistants] api_key_file: %s", error)
            raise ProviderError("the operator's key cannot be read", status=401) from None


def _keyless() -> ProviderError:
    text = "the provider asks for a key: send payload.apiKey, or set api_key in [plugins.assistants]"
    return ProviderError(text, status=400)
