"""OpenAI's Responses and Conversations as an engine, and whatever speaks the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from bf_plugin.engines.openai.api import Api, Timeouts
from bf_plugin.engines.openai.clients import Client, Clients
from bf_plugin.engines.openai.mapping import body_of, size_of
from bf_plugin.engines.openai.problems import CONVERSATIONS, Background, Problem, Quirks
from bf_plugin.engines.openai.reader import Reader
from bf_plugin.engines.openai.results import Mode, state_cut, usage_of
from bf_plugin.engines.openai.stream import ResponseStream
from bf_plugin.engines.openai.transcript import Transcript
from bf_plugin.engines.openai.turns import NoConversationsError, Turn
from bf_plugin.engines.port import Access, BaseEngine, Cursor, Handle, State, StepRequest
from bf_plugin.runtime.logs import get_logger
from bf_plugin.values import Usage

_log = get_logger(__name__)

_DELETED_TOGETHER = 8

StateMode = Literal["auto", "responses", "conversation", "local"]


class OpenAIEngine(BaseEngine):
    """Speaks to one server at a time, told by the base URL.

    `state_mode` says who keeps the conversation: chained responses (also "auto": going back one id is all the repair
    they need), a conversation at the provider, or nobody but us.
    """

    needs_key = True

    def __init__(
        self,
        *,
        background: Background = "auto",
        state_mode: StateMode = "auto",
        clients: Clients | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._mode: Mode = "responses" if state_mode == "auto" else state_mode
        self._quirks = Quirks(background)
        self._clients = clients or Clients()
        self._timeouts = timeouts or Timeouts()

    def warm_up(self) -> None:
        """Load what takes long; called in a thread, while nothing waits for it."""
        self._clients.warm_up()

    async def start(self, request: StepRequest, access: Access) -> ResponseStream:
        """Ask the model; return once the provider has named the response. Raises ProviderError."""
        client = await self._clients.take(access)
        try:
            return await self._ask(request, access, client)
        except BaseException:
            self._clients.release(client)
            raise

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> ResponseStream:
        """Follow a response that an earlier process was reading. It connects when it is read."""
        client = await self._clients.take(access)
        transcript = Transcript(cursor.texts)
        reader = Reader(dict(handle), key=access.api_key, prompt=0, transcript=transcript, cursor=cursor.sequence)
        return ResponseStream(
            reader,
            api=self._api(client, access),
            timeouts=self._timeouts,
            release=lambda: self._clients.release(client),
        )

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        """Stop a background response and return its usage; a foreground one ends with its connection."""
        response_id = handle.get("response_id")
        if not handle.get("background") or not response_id:
            return None
        client = await self._clients.take(access)
        try:
            api = self._api(client, access)
            return await self._cancel(api, response_id) or usage_of(await api.retrieve(response_id))
        except Problem as problem:
            _log.info("no usage of a cancelled response: %s", problem)
            return None
        finally:
            self._clients.release(client)

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        """Return the state to keep for a thread whose step was cut off."""
        return state_cut(state, handle)

    async def forget(self, names: Sequence[Handle], access: Access) -> bool:
        """Delete what these handles and states name at the provider; tell whether nothing of it is left."""
        client = await self._clients.take(access)
        api = self._api(client, access)
        stored = [name for name in names if name.get("mode") != "local"]
        responses = {name["response_id"] for name in stored if name.get("response_id")}
        conversations = {name["conversation"] for name in stored if name.get("conversation")}
        places = asyncio.Semaphore(_DELETED_TOGETHER)

        async def is_gone(delete: Callable[[str], Awaitable[None]], name: str) -> bool:
            async with places:
                try:
                    await delete(name)
                except Problem as problem:
                    if problem.status != 404:
                        _log.warning("the provider keeps something of a deleted thread: %s", problem)
                        return False
                return True

        deletions = [is_gone(api.delete_response, name) for name in responses]
        deletions += [is_gone(api.delete_conversation, name) for name in conversations]
        try:
            return all(await asyncio.gather(*deletions))
        finally:
            self._clients.release(client)

    async def aclose(self) -> None:
        """Close connections."""
        await self._clients.aclose()

    async def _ask(self, request: StepRequest, access: Access, client: Client) -> ResponseStream:
        api = self._api(client, access)
        base = body_of(request)
        turn = Turn(request, self._mode_at(access.base_url), api=api, timeouts=self._timeouts)
        while True:
            body = {**base, **self._quirks.parameters(access.base_url, stored=turn.stored)}
            try:
                body.update(await turn.prepare())
                handle: dict[str, Any] = {"mode": turn.mode, "background": bool(body.get("background"))}
                if turn.conversation:
                    handle["conversation"] = turn.conversation
                reader = Reader(handle, key=access.api_key, prompt=size_of(request, body["input"]))
                return await self._open(body, reader, api, client)
            except NoConversationsError:
                self._quirks.remember(access.base_url, CONVERSATIONS)
                turn = Turn(request, self._mode_at(access.base_url), api=api, timeouts=self._timeouts)
            except Problem as problem:
                if not (self._quirks.learn(access.base_url, body, problem) or await turn.mend(problem)):
                    raise

    async def _open(self, body: dict[str, object], reader: Reader, api: Api, client: Client) -> ResponseStream:
        reply = await api.create(body)
        stream = ResponseStream(
            reader,
            api=api,
            timeouts=self._timeouts,
            release=lambda: self._clients.release(client),
            reply=reply,
        )
        try:
            await stream.open()
        except BaseException:
            reply.close()
            raise
        return stream

    async def _cancel(self, api: Api, response_id: str) -> Usage | None:
        """An answer other than 200 mostly means that the response is over ("Cannot cancel ...", 404)."""
        try:
            return usage_of(await api.cancel(response_id))
        except Problem as problem:
            _log.info("cancel of a response was answered: %s", problem)
            return None

    def _api(self, client: Client, access: Access) -> Api:
        return Api(client, access, head_timeout=self._timeouts.long_silence)

    def _mode_at(self, base_url: str | None) -> Mode:
        """A server without conversations gets chained responses instead."""
        lacking = self._mode == "conversation" and self._quirks.refused(base_url, CONVERSATIONS)
        return "responses" if lacking else self._mode
