"""How a step reaches the model: what is sent given what the provider keeps, and what to do when it disagrees.

Interrupted turns leave calls without outputs and outputs without calls (both HTTP 400 on the next turn). Each of the
two is mended once; after that the step starts over from the journalled history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bf_plugin.engines.openai import repair
from bf_plugin.engines.openai.api import Api, Timeouts
from bf_plugin.engines.openai.mapping import input_of
from bf_plugin.engines.openai.problems import Problem
from bf_plugin.engines.openai.results import Mode, usable
from bf_plugin.engines.port import State, StepRequest
from bf_plugin.items import Item

BLOCK = 20
"""The most items that one request may add to a conversation."""

_GONE = re.compile(r"(previous response|conversation)\b.*\bnot (be )?found", re.IGNORECASE | re.DOTALL)
_CALL_ID = re.compile(r"call_id ([\w.-]*\w)")
_NO_SUCH_ROUTE = (404, 405, 501)


class NoConversationsError(Exception):
    """The server has no conversations."""


class Turn:
    """One step on its way: `prepare` before each try, `mend` after each refusal."""

    def __init__(self, request: StepRequest, mode: Mode, *, api: Api, timeouts: Timeouts) -> None:
        self.mode = mode
        self.conversation: str | None = None
        self._request = request
        self._api = api
        self._timeouts = timeouts
        self._use(usable(request.state, mode))
        self._locks = list(timeouts.lock_waits)
        self._mended: set[str] = set()
        self._closed: list[str] = []
        self._dropped: set[str] = set()

    @property
    def stored(self) -> bool:
        """Tell whether the provider keeps the response."""
        return self.mode != "local"

    async def prepare(self) -> dict[str, Any]:
        """Return what of the body says where the step goes on, and its input. Raises Problem, NoConversationsError."""
        if self._state is None:
            return await self._afresh()
        pending = await self._pending(self._state)
        if not self._adds(pending):
            self._use(None)
            return await self._afresh()
        items = input_of(pending)
        if self.mode == "conversation":
            return {"conversation": self.conversation, "input": items}
        return {"previous_response_id": self._state["response_id"], "input": items}

    async def mend(self, problem: Problem) -> bool:
        """Tell whether another try makes sense; raises Problem when a conversation stays locked."""
        if problem.code == "conversation_locked":
            return await self._wait_for_lock(problem)
        if self._state is None:
            return False
        missing = repair.call_without_output(problem.message)
        if missing and self._once("output"):
            self._closed.append(missing)
            return True
        orphan = repair.output_without_call(problem.message)
        if orphan and self._once("call") and self._drop_outputs(problem.message):
            return True
        if missing or orphan or _gone(problem):
            self._use(None)
            return True
        return False

    async def _afresh(self) -> dict[str, Any]:
        """Start from the history: as input, or as the items of a new conversation."""
        new = list(self._request.new)
        items = repair.clean_items([*await self._request.history(), *new])
        if self.mode != "conversation":
            return {"input": input_of(items)}
        ours = {id(item) for item in new}
        first = next((place for place, item in enumerate(items) if id(item) in ours), len(items))
        if self.conversation is None:
            self.conversation = await self._new_conversation(input_of(items[:first]))
        return {"conversation": self.conversation, "input": input_of(items[first:])}

    async def _new_conversation(self, items: Sequence[dict[str, Any]]) -> str:
        try:
            conversation = await self._api.create_conversation(items[:BLOCK])
        except Problem as problem:
            if problem.status in _NO_SUCH_ROUTE:
                raise NoConversationsError from None
            raise
        for start in range(BLOCK, len(items), BLOCK):
            await self._api.add_items(conversation, items[start : start + BLOCK])
        return conversation

    async def _pending(self, state: State) -> list[Item]:
        """Return the new items, made to fit what the provider has."""
        new = [item for item in self._request.new if not self._is_dropped(item)]
        open_calls = [call for call in (*state.get("calls", ()), *self._closed) if call not in self._dropped]
        if not state.get("dirty"):
            return repair.clean_items(new, open_calls=dict.fromkeys(open_calls))
        await self._wait_until_over(state.get("cut"))
        newest = await self._api.newest_items(state["conversation"], state.get("tail"))
        return repair.reconcile(newest, new, tail=state.get("tail"), open_calls=open_calls)

    def _adds(self, pending: Sequence[Item]) -> bool:
        """Tell whether anything new is left to be sent. If not, a conversation has it from an attempt whose answer was
        lost: what came of that stands there too, and no page has seen it.
        """
        ours = {id(item) for item in self._request.new}
        return not ours or any(id(item) in ours for item in pending)

    async def _wait_until_over(self, response_id: str | None) -> None:
        """Wait for the end of the response that was cut off: until then its items may still be committed."""
        if response_id is None or not self._once("cut"):
            return
        for seconds in self._timeouts.lock_waits:
            try:
                response = await self._api.retrieve(response_id)
            except Problem:
                return  # gone, or not to be asked about; a lock would show when the step is sent
            if response.get("status") not in ("queued", "in_progress"):
                return
            await self._timeouts.sleep(seconds)

    async def _wait_for_lock(self, problem: Problem) -> bool:
        if not self._locks:
            raise Problem(problem.message, status=409, code=problem.code)
        await self._timeouts.sleep(self._locks.pop(0))
        return True

    def _drop_outputs(self, message: str) -> bool:
        """Drop the output that was named and those of calls the provider never completed, unless nothing remains."""
        known = set((self._state or {}).get("calls", ()))
        named = set(_CALL_ID.findall(message))
        outputs = {item["call_id"] for item in self._request.new if item["type"] == "function_output"}
        self._dropped |= named | (outputs - known)
        return any(not self._is_dropped(item) for item in self._request.new)

    def _is_dropped(self, item: Item) -> bool:
        return item["type"] == "function_output" and item["call_id"] in self._dropped

    def _use(self, state: State | None) -> None:
        self._state = state
        self.conversation = state.get("conversation") if state else None

    def _once(self, what: str) -> bool:
        if what in self._mended:
            return False
        self._mended.add(what)
        return True


def _gone(problem: Problem) -> bool:
    """Tell whether the provider does not know what the state names. A model it does not know is another 404."""
    if problem.code == "model_not_found" or problem.param == "model":
        return False
    return (
        problem.code == "previous_response_not_found"
        or problem.status == 404
        or (problem.status == 400 and _GONE.search(problem.message) is not None)
    )
