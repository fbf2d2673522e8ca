"""The server's threads and runs: a run goes on whether anybody listens or not, as at OpenAI."""

from __future__ import annotations

import asyncio
import json
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openai.types.beta import assistant_stream_event
from openai.types.beta.assistant_stream_event import AssistantStreamEvent
from openai.types.beta.threads.message import Message
from pydantic import TypeAdapter

from assistants_support.script import Annotated, Call, Cut, End, ErrorEvent, NextMessage
from bf_plugin.testing import Gate

if TYPE_CHECKING:
    from assistants_support.server import AssistantsServer

ACTIVE = ("queued", "in_progress", "requires_action", "cancelling")

_EVENT = TypeAdapter(AssistantStreamEvent)

_KNOWN_EVENTS = {
    typing.get_args(kind.model_fields["event"].annotation)[0]
    for kind in vars(assistant_stream_event).values()
    if isinstance(kind, type) and "event" in getattr(kind, "model_fields", {})
}


@dataclass
class Thread:
    messages: list[dict[str, Any]] = field(default_factory=list)
    runs: list[RunTask] = field(default_factory=list)
    resources: dict[str, Any] = field(default_factory=dict)


class RunTask:
    """A run: the object, its task, and who listens."""

    def __init__(self, server: AssistantsServer, thread_id: str, body: dict[str, Any]) -> None:
        self.server, self.thread_id = server, thread_id
        assistant = server.assistants[body["assistant_id"]]
        self.listener: asyncio.Queue[Any] | None = None
        self.task: asyncio.Task[None] | None = None
        self.steps = self.words = 0
        self.step: dict[str, Any] | None = None
        self.object: dict[str, Any] = {
            "id": server.new_id("run"),
            "object": "thread.run",
            "created_at": 1,
            "thread_id": thread_id,
            "assistant_id": body["assistant_id"],
            "status": "queued",
            "model": body.get("model") or assistant["model"],
            "instructions": (body.get("instructions") or assistant.get("instructions") or "")
            + (f"\n{body['additional_instructions']}" if body.get("additional_instructions") else ""),
            "tools": body.get("tools") or assistant.get("tools") or [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "metadata": body.get("metadata") or {},
            "required_action": None,
            "last_error": None,
            "incomplete_details": None,
            "usage": None,
        }

    @property
    def id(self) -> str:
        return str(self.object["id"])

    @property
    def status(self) -> str:
        return str(self.object["status"])

    def emit(self, event: str, data: Any) -> None:
        _EVENT.validate_python({"event": event, "data": _typed(data)})
        assert event in _KNOWN_EVENTS, event
        if self.listener is not None:
            self.listener.put_nowait((event, json.loads(json.dumps(data))))

    def move(self, status: str, **fields: Any) -> None:
        self.object.update(status=status, **fields)
        if status not in ACTIVE:
            counts = 10 * self.steps, self.words
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            self.object["usage"] = dict(zip(names, (*counts, sum(counts)), strict=True))
            self.object["required_action"] = None
        self.emit(f"thread.run.{status}", self.object)
        self.server.changed()

    def work(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._work())
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _work(self) -> None:
        message: dict[str, Any] | None = None
        try:
            self.move("in_progress")
            self._end_step("completed")
            self.steps += 1
            calls: list[Call] = []
            for piece in self.server.next_script():
                if isinstance(piece, (str, Annotated)):
                    message = message or self._begin_message()
                    self._say(message, piece)
                elif isinstance(piece, NextMessage):
                    message = self._end_message(message, "completed")
                elif isinstance(piece, Gate):
                    await piece.passed()
                elif isinstance(piece, Call):
                    calls.append(piece)
                elif isinstance(piece, End):
                    reason = {"failed": "run_failed", "expired": "run_expired"}.get(piece.status, "max_tokens")
                    self._end_message(message, "incomplete", reason)
                    self._finish(piece)
                    return
                elif isinstance(piece, (Cut, ErrorEvent)) and self.listener is not None:
                    self.listener.put_nowait(piece)
                    self.listener = None
            self._end_message(message, "completed")
            if calls:
                asked = [_tool_call(call) for call in calls]
                self._begin_step({"type": "tool_calls", "tool_calls": [_in_step(call) for call in asked]})
                action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": asked}}
                self.move("requires_action", required_action=action)
            else:
                self.move("completed", completed_at=2)
        except asyncio.CancelledError:
            self._end_message(message, "incomplete", "run_cancelled")
            raise
        except BaseException as error:
            self.server.errors.append(error)
            raise
        finally:
            self._done()

    def _finish(self, end: End) -> None:
        details = {"reason": end.reason} if end.reason else None
        error = {"code": end.code, "message": end.message} if end.status == "failed" else None
        self.move(end.status, incomplete_details=details, last_error=error)

    async def cancel(self) -> None:
        self.move("cancelling", required_action=None)
        if self.server.hold_cancelled is not None:
            await self.server.hold_cancelled.passed()
        if self.task is not None and not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task})
        self.move("cancelled", cancelled_at=2)
        self._done()

    def _begin_message(self) -> dict[str, Any]:
        message = {
            "id": self.server.new_id("msg"),
            "object": "thread.message",
            "created_at": 1,
            "thread_id": self.thread_id,
            "run_id": self.id,
            "assistant_id": self.object["assistant_id"],
            "role": "assistant",
            "status": "in_progress",
            "content": [],
            "attachments": [],
            "metadata": {},
        }
        self.server.threads[self.thread_id].messages.append(message)
        self._begin_step({"type": "message_creation", "message_creation": {"message_id": message["id"]}})
        self.emit("thread.message.created", message)
        return message

    def _say(self, message: dict[str, Any], piece: str | Annotated) -> None:
        self.words += 1
        value = piece if isinstance(piece, str) else piece.text
        annotations = [] if isinstance(piece, str) else [piece.annotation]
        if not message["content"]:
            message["content"].append({"type": "text", "text": {"value": "", "annotations": []}})
        text = message["content"][0]["text"]
        text["value"] += value
        text["annotations"] += annotations
        delta: dict[str, Any] = {"value": value}
        if annotations:
            delta["annotations"] = [{"index": 0, **one} for one in annotations]
        content = [{"index": 0, "type": "text", "text": delta}]
        data = {"id": message["id"], "object": "thread.message.delta", "delta": {"content": content}}
        self.emit("thread.message.delta", data)

    def _end_message(self, message: dict[str, Any] | None, status: str, reason: str | None = None) -> None:
        if message is not None and message["status"] == "in_progress":
            message.update(status=status, **({"incomplete_details": {"reason": reason}} if reason else {}))
            Message.model_validate(message)
            self.emit(f"thread.message.{status}", message)
            self._end_step({"run_cancelled": "cancelled", "run_failed": "failed"}.get(reason or "", "completed"))

    def _begin_step(self, details: dict[str, Any]) -> None:
        """Begin a step: its events, whose names and statuses look like a run's, come between the others."""
        self.step = {
            "id": self.server.new_id("step"),
            "object": "thread.run.step",
            "created_at": 1,
            "run_id": self.id,
            "thread_id": self.thread_id,
            "assistant_id": self.object["assistant_id"],
            "status": "in_progress",
            "type": details["type"],
            "step_details": details,
        }
        self.emit("thread.run.step.created", self.step)
        self.emit("thread.run.step.in_progress", self.step)

    def _end_step(self, status: str) -> None:
        if self.step is not None:
            step, self.step = self.step, None
            self.emit(f"thread.run.step.{status}", {**step, "status": status})

    def _done(self) -> None:
        if self.listener is not None and self.status != "cancelling":
            self.listener.put_nowait(None)
            self.listener = None


def _tool_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": json.dumps(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


def _in_step(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "output": None}}


def _typed(data: dict[str, Any]) -> dict[str, Any]:
    """Return what the SDK's types are to be asked about: they do not know that a filter may leave a run incomplete."""
    if (data.get("incomplete_details") or {}).get("reason") == "content_filter" and data["object"] == "thread.run":
        return {**data, "incomplete_details": None}
    return data
