"""The Responses API."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aiohttp import web

from bf_plugin.testing.provider import errors
from bf_plugin.testing.provider.brain import BrainRequest, Script
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.exchange import Exchange, Handler, after
from bf_plugin.testing.provider.faults import Fault, Faults
from bf_plugin.testing.provider.generation import Generator
from bf_plugin.testing.provider.items import check_pairs, normalize
from bf_plugin.testing.provider.pages import page
from bf_plugin.testing.provider.state import ConversationRecord, JsonObject, ResponseRecord, Store
from bf_plugin.testing.provider.streaming import Streamer
from bf_plugin.testing.provider.validation import check_create


class ResponsesApi:
    """Creates, reads, resumes, cancels and deletes responses."""

    def __init__(
        self, *, store: Store, faults: Faults, script: Script, generator: Generator, models: Sequence[str] | None
    ) -> None:
        self._store = store
        self._faults = faults
        self._script = script
        self._generator = generator
        self._streamer = Streamer(store, faults)
        self._models = models

    def operations(self) -> dict[str, Handler]:
        """Return the handlers by operation."""
        return {
            "create": self._create,
            "retrieve": self._retrieve,
            "resume": self._resume,
            "cancel": self._cancel,
            "delete": self._delete,
            "input_items": self._input_items,
        }

    async def _create(self, exchange: Exchange) -> web.StreamResponse:
        record = self._accept(exchange)
        try:
            await after(exchange, self._faults)
            return await self._tell(exchange, record)
        except BaseException:
            if not record.background:
                self._generator.cut(record)
            raise

    async def _tell(self, exchange: Exchange, record: ResponseRecord) -> web.StreamResponse:
        if record.body.get("stream"):
            answer, goes_on = await self._stream(exchange, record, "create", 0)
            if not (goes_on or record.background):
                self._generator.undo(record)
            return answer
        if not record.background:
            await record.log.beyond(sys.maxsize)
        if record.stream_error:
            return exchange.json({"error": record.stream_error}, 500)
        return _shown(exchange, record)

    def _accept(self, exchange: Exchange) -> ResponseRecord:
        body = exchange.body
        self._refuse(body)
        check_create(body)
        if self._models is not None and body["model"] not in self._models:
            message = f"The requested model '{body['model']}' does not exist."
            raise ApiError(400, message, code="model_not_found", param="model")
        history, conversation = self._history(exchange)
        items = normalize(body["input"])
        check_pairs([*history, *items])
        record = ResponseRecord(
            body=body,
            owner=exchange.owner,
            history=history,
            input=items,
            conversation_id=conversation.id if conversation else None,
            quirks=self._generator.quirks(),
            visible=body.get("store") is not False,
        )
        reply = self._script.answer(BrainRequest(body=body, history=history, input=items))
        self._store.add(record)
        self._generator.start(record, reply)
        return record

    def _refuse(self, body: JsonObject) -> None:
        def applies(fault: Fault) -> bool:
            return body.get(fault["param"]) is not None

        if fault := self._faults.take("refuse_parameter", when=applies):
            named = fault["param"] if fault["named"] else None
            raise ApiError(400, fault["message"].format(param=fault["param"]), code=fault["code"], param=named)
        if body.get("background") and body.get("stream") and (fault := self._faults.take("refuse_background_stream")):
            raise ApiError(400, fault["message"], code=fault["code"], param=fault["param"])

    def _history(self, exchange: Exchange) -> tuple[Sequence[JsonObject], ConversationRecord | None]:
        previous, named = exchange.body.get("previous_response_id"), exchange.body.get("conversation")
        if previous:
            return self._chain(previous, exchange.owner), None
        if not named:
            return (), None
        conversation_id = named if isinstance(named, str) else named.get("id", "")
        conversation = self._store.conversation(conversation_id, exchange.owner)
        if conversation is None:
            raise errors.conversation_not_found(conversation_id)
        if conversation.active is not None or self._faults.take("conversation_locked"):
            raise errors.conversation_locked()
        return tuple(conversation.items), conversation

    def _chain(self, response_id: str, owner: str) -> Sequence[JsonObject]:
        record = self._store.response(response_id, owner)
        if record is None or record.status not in ("completed", "incomplete"):
            raise errors.previous_not_found(response_id)
        if self._faults.take("previous_response_expired"):
            raise errors.previous_not_found(response_id)
        return (*record.history, *record.committed)

    async def _retrieve(self, exchange: Exchange) -> web.StreamResponse:
        return _shown(exchange, self._found(exchange))

    async def _resume(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        if self._faults.take("plain_resume"):
            return _shown(exchange, record)
        if fault := self._faults.take("resume_expired"):
            raise ApiError(fault["status"], "This response can no longer be streamed.", param="stream")
        if not (record.background and record.body.get("stream")):
            message = "Only responses created with 'background' and 'stream' set to true can be streamed."
            raise ApiError(400, message, code="invalid_value", param="stream")
        cursor = exchange.request.query.get("starting_after")
        first = 1 if "sequence_from_one" in record.quirks else 0
        start = 0 if cursor is None else max(0, _integer("starting_after", cursor) + 1 - first)
        answer, _ = await self._stream(exchange, record, "resume", start)
        return answer

    async def _cancel(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        self._generator.cancel(record)
        return _shown(exchange, record)

    async def _delete(self, exchange: Exchange) -> web.StreamResponse:
        record = self._found(exchange)
        self._generator.cut(record)
        record.visible = False
        return exchange.json({"id": record.id, "object": "response", "deleted": True})

    async def _input_items(self, exchange: Exchange) -> web.StreamResponse:
        return exchange.json(page(self._found(exchange).input, exchange.request.query, self._faults))

    async def _stream(
        self, exchange: Exchange, record: ResponseRecord, on: str, start: int
    ) -> tuple[web.StreamResponse, bool]:
        return await self._streamer.send(exchange.request, record, on=on, start=start, headers=exchange.headers)

    def _found(self, exchange: Exchange) -> ResponseRecord:
        record = self._store.response(exchange.parameter("id"), exchange.owner)
        if record is None:
            raise errors.response_not_found(exchange.parameter("id"))
        return record


def _shown(exchange: Exchange, record: ResponseRecord) -> web.StreamResponse:
    return exchange.json(record.snapshot())


def _integer(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise errors.wrong_type(name, "an integer", value) from None
