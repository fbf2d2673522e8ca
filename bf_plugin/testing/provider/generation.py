"""Generates responses: one task each, which writes the event log that any number of streams read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from bf_plugin.testing.gate import Gate
from bf_plugin.testing.provider.errors import ApiError
from bf_plugin.testing.provider.events import Composer
from bf_plugin.testing.provider.faults import Fault, Faults
from bf_plugin.testing.provider.script import Pause, Reply
from bf_plugin.testing.provider.state import ConversationRecord, ResponseRecord, Store

QUIRKS = (
    "no_sequence_numbers",
    "sequence_from_one",
    "no_text_done",
    "no_created",
    "unknown_events",
    "incomplete_completed",
    "no_usage",
    "null_conversation",
    "lone_surrogates",
    "generation_hangs",
    "output_when_done",
)
"""Faults that belong to one response and are taken when it is created."""

_BREATH = 256
"""Events written in a row before other tasks get their turn."""


class Generator:
    """Runs responses from the first event to the commit of their items."""

    def __init__(self, store: Store, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        self._composers: dict[str, Composer] = {}
        self._chores: set[asyncio.Task[None]] = set()

    def quirks(self) -> Mapping[str, Fault]:
        """Take the faults that will hold for one response."""
        taken = {name: self._faults.take(name) for name in QUIRKS}
        return {name: fault for name, fault in taken.items() if fault is not None}

    def start(self, record: ResponseRecord, reply: Reply) -> None:
        """Begin to generate; a conversation is locked from here on."""
        conversation = self._conversation(record)
        if conversation is not None:
            conversation.active = record.id
        composer = self._composers[record.id] = Composer(record)
        for frame in composer.opening():
            self._append(record, frame)
        record.task = asyncio.get_running_loop().create_task(self._run(record, reply))

    def cancel(self, record: ResponseRecord) -> None:
        """Cancel a background response as the API does; raises ApiError when that is not possible."""
        if not record.background:
            raise ApiError(400, "Cannot cancel a synchronous response.")
        if record.status == "cancelled":
            return
        if record.over:
            raise ApiError(400, f"Cannot cancel a {record.status} response.")
        if fault := self._faults.take("cancel_completes"):
            record.status = fault["answer"]
            return
        self.cut(record)

    def cut(self, record: ResponseRecord) -> None:
        """End a response early: it commits nothing unless a fault says otherwise, and loses its output."""
        if record.over or record.task is None:
            return
        record.task.cancel()
        record.settle()
        record.status = "cancelled"
        record.visible = record.background
        if fault := self._faults.take("commit_on_cut"):
            record.committed = [*record.input, *(record.calls if fault["calls"] else ())]
            self._commit(record)
        self._unlock(record)
        self._close_cut(record)
        self._store.changes.notify()

    def undo(self, record: ResponseRecord) -> None:
        """Cut a foreground response off even if it was generated faster than its client could have read it."""
        if not record.over:
            return self.cut(record)
        record.status, record.visible = "cancelled", False
        conversation = self._conversation(record)
        if conversation is not None:
            conversation.items = [item for item in conversation.items if item not in record.committed]
        return None

    async def stop(self) -> None:
        """End everything that still goes on."""
        tasks = [record.task for record in self._store.responses.values() if record.task and not record.task.done()]
        tasks += self._chores
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, record: ResponseRecord, reply: Reply) -> None:
        try:
            await self._write(record, reply)
        except Exception as failure:
            record.status = "failed"
            self._store.failures.append(failure)
        finally:
            if record.status != "cancelled":
                self._close(record)

    async def _write(self, record: ResponseRecord, reply: Reply) -> None:
        composer = self._composers[record.id]
        await self._maybe_hang(record)
        clock = asyncio.get_running_loop().time
        due = clock()
        for number, step in enumerate(composer.content(reply)):
            if isinstance(step, Gate):
                await step.passed()
                due = clock()
            elif isinstance(step, Pause):
                due = (due if step.paced else clock()) + step.seconds
                if (left := due - clock()) > 0:
                    await asyncio.sleep(left)
            else:
                self._append(record, step)
                await self._maybe_hang(record)
                if number % _BREATH == 0:
                    await asyncio.sleep(0)
        last = composer.ending(reply)
        self._finish(record)
        record.log.append(last)
        del self._composers[record.id]

    def _append(self, record: ResponseRecord, frame: bytes) -> None:
        record.log.append(frame)
        if noise := record.quirks.get("unknown_events"):
            record.log.append(self._composers[record.id].event(noise["type"]))
        self._store.changes.notify()

    async def _maybe_hang(self, record: ResponseRecord) -> None:
        fault = record.quirks.get("generation_hangs")
        if fault is not None and len(record.log.frames) >= fault["after"]:
            await self._keep_alive(record, fault["keepalive"])

    async def _keep_alive(self, record: ResponseRecord, seconds: float | None) -> None:
        """Never return; say `keepalive` now and then if asked to."""
        while seconds:
            await asyncio.sleep(seconds)
            record.log.append(self._composers[record.id].event("keepalive"))
            self._store.changes.notify()
        await asyncio.Event().wait()

    def _close(self, record: ResponseRecord) -> None:
        record.log.close()
        self._store.changes.notify()

    def _close_cut(self, record: ResponseRecord) -> None:
        if record.background and (fault := self._faults.take("cancel_hangs_stream")):
            self._later(self._keep_alive(record, fault["keepalive"]))
            return
        if record.background and not self._faults.take("cancel_ends_stream"):
            record.log.append(self._composers[record.id].cancelled())
        record.log.close()

    def _finish(self, record: ResponseRecord) -> None:
        if record.status not in ("completed", "incomplete"):
            self._unlock(record)
            return
        lost = record.calls if record.calls and self._faults.take("call_not_committed") else []
        record.committed = [item for item in (*record.input, *record.output) if item not in lost]
        if record.conversation_id and (late := self._faults.take("commit_late")):
            if not late["locked"]:
                self._unlock(record)
            self._later(self._commit_late(record, late))
        else:
            self._commit(record)
            self._unlock(record)

    async def _commit_late(self, record: ResponseRecord, late: Fault) -> None:
        if late["gate"] is not None:
            await late["gate"].passed()
        await asyncio.sleep(late["seconds"])
        self._commit(record)
        self._unlock(record)
        self._store.changes.notify()

    def _commit(self, record: ResponseRecord) -> None:
        conversation = self._conversation(record)
        if conversation is not None:
            conversation.add(record.committed)

    def _unlock(self, record: ResponseRecord) -> None:
        conversation = self._conversation(record)
        if conversation is not None and conversation.active == record.id:
            conversation.active = None

    def _conversation(self, record: ResponseRecord) -> ConversationRecord | None:
        return self._store.conversations.get(record.conversation_id or "")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
