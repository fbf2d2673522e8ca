"""What the provider remembers: responses with their events, conversations with their items."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bf_plugin.testing.provider.encoding import join_surrogates
from bf_plugin.testing.provider.eventlog import EventLog
from bf_plugin.testing.provider.faults import Fault

JsonObject = dict[str, Any]
TERMINAL = ("completed", "incomplete", "failed", "cancelled")


def new_id(prefix: str) -> str:
    """Return a fresh id in the provider's style."""
    return f"{prefix}_{secrets.token_hex(24)}"


@dataclass(slots=True, eq=False)
class ResponseRecord:
    """One response.

    `history` is what the model saw before `input`; `output` grows while it is generated; `committed` is what it leaves
    for the next response.
    """

    body: Mapping[str, Any]
    owner: str
    history: Sequence[JsonObject]
    input: Sequence[JsonObject]
    conversation_id: str | None
    id: str = field(default_factory=lambda: new_id("resp"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    output: list[JsonObject] = field(default_factory=list)
    error: JsonObject | None = None
    stream_error: JsonObject | None = None
    incomplete_details: JsonObject | None = None
    usage: JsonObject | None = None
    deltas: list[str] = field(default_factory=list, repr=False)
    log: EventLog = field(default_factory=EventLog, repr=False)
    quirks: Mapping[str, Fault] = field(default_factory=dict, repr=False)
    committed: Sequence[JsonObject] = ()
    visible: bool = True
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    _open: tuple[JsonObject, str, list[str]] | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """All text and refusals generated so far, also of a response that was cut off."""
        return join_surrogates("".join(self.deltas))

    @property
    def background(self) -> bool:
        """Tell whether it was created with `background`."""
        return bool(self.body.get("background"))

    @property
    def over(self) -> bool:
        """Tell whether its status is a last one."""
        return self.status in TERMINAL

    @property
    def calls(self) -> list[JsonObject]:
        """The function calls in its output so far."""
        return [item for item in self.output if item["type"] == "function_call"]

    def open(self, holder: JsonObject, field_name: str) -> list[str]:
        """Return the list to collect the deltas of one field in, so that a snapshot can show it half-done."""
        chunks: list[str] = []
        self._open = (holder, field_name, chunks)
        return chunks

    def settle(self) -> None:
        """Write the deltas collected so far into their field."""
        if self._open is not None:
            holder, field_name, chunks = self._open
            holder[field_name] = join_surrogates("".join(chunks))

    def snapshot(self) -> JsonObject:
        """Return the response as the API shows it now; a cancelled one has lost its output."""
        self.settle()
        body, over = self.body, self.status in ("completed", "incomplete", "failed")
        shown: JsonObject = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": self.status,
            "background": self.background,
            "error": self.error,
            "incomplete_details": self.incomplete_details,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": body["model"],
            "output": self._shown_output(),
            "parallel_tool_calls": _default(body.get("parallel_tool_calls"), True),
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
            "service_tier": _default(body.get("service_tier"), "default") if over else "auto",
            "store": _default(body.get("store"), True),
            "temperature": _default(body.get("temperature"), 1.0),
            "text": {"format": {"type": "text"}, "verbosity": "medium", **(body.get("text") or {})},
            "tool_choice": _default(body.get("tool_choice"), "auto"),
            "tools": [_shown_tool(tool) for tool in body.get("tools") or ()],
            "top_logprobs": _default(body.get("top_logprobs"), 0),
            "top_p": _default(body.get("top_p"), 1.0),
            "truncation": _default(body.get("truncation"), "disabled"),
            "usage": self.usage,
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }
        if "null_conversation" in self.quirks:
            shown["conversation"] = None
        elif self.conversation_id:
            shown["conversation"] = {"id": self.conversation_id}
        return shown

    def _shown_output(self) -> list[JsonObject]:
        hidden = self.status == "cancelled" or ("output_when_done" in self.quirks and not self.over)
        return [] if hidden else list(self.output)


@dataclass(slots=True, eq=False)
class ConversationRecord:
    """One conversation; `active` is the response that holds its lock."""

    owner: str
    metadata: Mapping[str, Any]
    id: str = field(default_factory=lambda: new_id("conv"))
    created_at: int = field(default_factory=lambda: int(time.time()))
    items: list[JsonObject] = field(default_factory=list)
    active: str | None = None

    def shown(self) -> JsonObject:
        """Return the conversation as the API shows it."""
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": dict(self.metadata),
        }

    def add(self, items: Iterable[JsonObject]) -> None:
        """Append items that are not there yet."""
        known = {item["id"] for item in self.items}
        self.items.extend(item for item in items if item["id"] not in known)


class Changes:
    """Lets threads wait for something to happen in the simulator."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting = 0

    def notify(self) -> None:
        """Say that something happened; cheap while nobody waits."""
        # A waiter counts itself before it looks, so whoever is not counted yet will see this change.
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        """Block until `predicate` holds; False after `timeout` seconds."""
        with self._condition:
            self._waiting += 1
            try:
                return self._condition.wait_for(predicate, timeout)
            finally:
                self._waiting -= 1


@dataclass(slots=True, eq=False)
class Store:
    """Everything of one server. Written on its loop; other threads only read."""

    responses: dict[str, ResponseRecord] = field(default_factory=dict)
    conversations: dict[str, ConversationRecord] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    open_streams: int = 0
    failures: list[Exception] = field(default_factory=list)
    remember: int | None = None

    def add(self, record: ResponseRecord) -> None:
        """Keep a response, and forget the oldest ones that are over when there are too many."""
        self.responses[record.id] = record
        while self.remember is not None and len(self.responses) > self.remember:
            oldest = next(iter(self.responses))
            if not self.responses[oldest].over:
                break
            del self.responses[oldest]

    def response(self, response_id: str, owner: str) -> ResponseRecord | None:
        """Return a response that this key may see."""
        record = self.responses.get(response_id)
        return record if record is not None and record.visible and record.owner == owner else None

    def conversation(self, conversation_id: str, owner: str) -> ConversationRecord | None:
        """Return a conversation that this key may see."""
        record = self.conversations.get(conversation_id)
        return record if record is not None and record.owner == owner else None


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


def _shown_tool(tool: Mapping[str, Any]) -> JsonObject:
    if tool["type"] != "function":
        return dict(tool)
    return {"description": None, "strict": True, **tool}
