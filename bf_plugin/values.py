"""What hooks get. All values are frozen but the two drafts (`RunDraft`, `Delta`), which plugins change in place."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bf_plugin.items import FunctionTool, Message, Tool

FinishReason = Literal["stop", "length", "content_filter", "cancelled", "error", "expired"]
Status = Literal["completed", "failed", "cancelled", "expired"]
StopReason = Literal["stop", "deadline", "interrupt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one step or one run; `estimated` when the provider did not report them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            estimated=self.estimated or other.estimated,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the three counts under the names callers know, and `estimated` only if they are."""
        counts: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }
        return {**counts, "estimated": True} if self.estimated else counts


@dataclass(slots=True, kw_only=True)
class RunDraft:
    """A run before it starts: `before_run` may change everything but the four ids.

    `options` are the caller's generation parameters in the Assistants' meaning (`temperature`, `top_p`, `tool_choice`,
    `response_format`, `max_completion_tokens`, `reasoning_effort`, `parallel_tool_calls`, `provider_args`).
    `traceparent` and `tracestate` are the caller's W3C trace context, None without one; a plugin that makes spans puts
    its own in their place. They are kept with the run, and sent to the provider.
    """

    id: str
    thread_id: str = field(repr=False)
    app: str
    request_id: str
    provider: str
    model: str | None
    instructions: str | None = field(repr=False)
    messages: list[Message] = field(repr=False)
    tools: list[Tool] = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    stream: bool
    new_thread: bool
    traceparent: str | None = None
    tracestate: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One provider response of a run: `number` counts from 1, times are POSIX seconds.

    `first_text_at` is when its first text came, None if none did, or if it came to an earlier process. `finish_reason`
    is how the model ended it, None until it has; a step that asks for tools ends with `stop` too.
    """

    number: int
    response_id: str | None = None
    started_at: float
    ended_at: float | None = None
    usage: Usage = field(default_factory=Usage)
    first_text_at: float | None = None
    finish_reason: FinishReason | None = None


@dataclass(slots=True, kw_only=True)
class Run:
    """A run under way. `step` moves as the run does; `scratch` is this drive's own memory, for plugins to use.

    `messages` are those it was started with, not the thread's. `started_at` is when its time began (a queued run: when
    its turn came), in POSIX seconds. `traceparent` and `tracestate` are the W3C trace context it is part of. All are as
    `before_run` left them.
    """

    id: str
    thread_id: str = field(repr=False)
    app: str
    request_id: str
    provider: str
    model: str
    instructions: str | None = field(repr=False)
    tools: Sequence[Tool] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    stream: bool
    step: Step | None = None
    scratch: dict[Any, Any] = field(default_factory=dict, repr=False)
    messages: Sequence[Message] = field(default=(), repr=False)
    started_at: float = field(default_factory=time.time)
    traceparent: str | None = None
    tracestate: str | None = field(default=None, repr=False)


@dataclass(slots=True)
class Delta:
    """An outgoing, joined piece of text. Change `text`; empty holds it back.

    `final` marks the last call, when held text must go. `replay` is true while a takeover repeats text seen before.
    """

    text: str
    final: bool = False
    replay: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """The model asks for a function.

    `arguments` is the parsed JSON object; `tool` the definition the run offered, None if it offered no such tool;
    `idempotency_key` is the same when the call is made again after a crash. `timeout` is in seconds.
    """

    id: str
    name: str
    arguments: Mapping[str, Any] = field(repr=False)
    idempotency_key: str
    tool: FunctionTool | None = field(default=None, repr=False)
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer to a tool call: `output` is a str or anything JSON-able, None included."""

    output: Any
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """How a plugin wants one of its tools to be called.

    `timeout` is in seconds, None: the operator's. An `idempotent` tool may run again when a crash hid its result.
    """

    timeout: float | None = None
    idempotent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `text` is what callers saw, after `on_delta`; `duration` is in seconds."""

    status: Status
    finish_reason: FinishReason
    usage: Usage
    text: str = field(repr=False)
    error_code: str | None = None
    error_message: str | None = None
    steps: Sequence[Step] = ()
    duration: float = 0.0
