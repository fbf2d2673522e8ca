"""What the journal takes and gives: frozen values, no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from bf_plugin.errors import JournalError
from bf_plugin.gateway.messengers import Destination
from bf_plugin.items import Item, Message, Tool
from bf_plugin.journal.states import STARTING, CallState, RunState, StepState
from bf_plugin.values import FinishReason, Status, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """All that is needed to drive a run, in any process: fixed when it is accepted."""

    provider: str
    base_url: str | None
    operator_key: bool
    model: str
    instructions: str | None = field(repr=False)
    messages: list[Message] = field(repr=False)
    tools: list[Tool] = field(repr=False)
    metadata: dict[str, str] = field(repr=False)
    options: dict[str, Any] = field(repr=False)
    stream: bool
    action_name: str
    channels: list[str] = field(repr=False)
    messaging_url: str | None = None
    host_environ: dict[str, Any] | None = None
    request_id: str = ""
    traceparent: str | None = None
    tracestate: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """The keys of a run, kept until it has ended."""

    app_key: str = field(repr=False)
    provider_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as the journal has it. Times are POSIX seconds; `secrets` is None once it has ended."""

    id: str
    thread_id: str = field(repr=False)
    app: str
    owner: str | None
    created_at: float
    spec: RunSpec
    secrets: Secrets | None
    state: RunState = STARTING
    epoch: int = 1
    attempts: int = 0
    told: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    deadline: float | None = None
    outcome: Status | None = None
    finish_reason: FinishReason | None = None
    error: Mapping[str, Any] | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def ids(self) -> tuple[str, int]:
        """Id and epoch: what each write of a driver is fenced by."""
        return self.id, self.epoch

    @property
    def ending(self) -> Ending | None:
        """How the run ended, None when it has no outcome yet."""
        if self.outcome is None:
            return None
        return Ending(status=self.outcome, finish_reason=self.finish_reason or "error", error=self.error, won=False)

    def destination(self) -> Destination:
        """Return where this run's messages go."""
        spec = self.spec
        return Destination(
            app=self.app,
            api_key=self.secrets.app_key if self.secrets else "",
            channels=spec.channels,
            url=spec.messaging_url,
            host_environ=spec.host_environ,
        )


class Source(NamedTuple):
    """A stretch of the provider's text behind a message: what a takeover needs to go on after it.

    `sequence` is the provider's cursor behind it, `part` its (output, content) indexes. `text` is as the provider gave
    it, None where that is what the message says too.
    """

    step: int
    sequence: int
    part: tuple[int, int]
    length: int
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """One message for the gateway, to be committed before its first byte is sent.

    `body` is the JSON text of `{"actions": [...]}`; `sources` is the provider's text that is used up with it.
    """

    number: int
    first_seq: int
    last_seq: int
    end_offset: int
    body: bytes = field(repr=False)
    sources: Sequence[Source] = field(default=(), repr=False)
    deliver: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A step on record: what is to be sent, and what the provider already has.

    `synced` is the newest item that `state` covers.
    """

    state: Mapping[str, Any] | None = field(repr=False)
    synced: int
    new: list[Item] = field(repr=False)


CallKey = tuple[int, int]
"""Tells a call of a run from the others: step number, position in the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """A tool call as the journal has it; `output` is None until it is done."""

    key: CallKey
    call_id: str
    name: str
    state: CallState
    arguments: str = field(repr=False)
    output: str | None = field(default=None, repr=False)
    tool_call_id: str | None = field(default=None, repr=False)
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """A step as the journal has it: the state it began with, its handle once the provider named it, how it ended."""

    number: int
    state: StepState
    started_at: float
    ended_at: float | None
    usage: Usage
    parent: Mapping[str, Any] | None = field(repr=False)
    handle: Mapping[str, Any] | None = field(repr=False)
    content: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ends, proposed or on record. `error` holds message, code and details of the `error` event.

    `won` is false when another ending was on record first: whoever proposed one obeys that.
    """

    status: Status
    finish_reason: FinishReason
    error: Mapping[str, Any] | None = field(default=None, repr=False)
    won: bool = True

    @property
    def lacks_error(self) -> bool:
        """Whether only the outcome was read: the fence, which tells of outcomes, has no key to open an error."""
        return not self.won and self.error is None and self.status in ("failed", "expired")


CANCELLED = Ending(status="cancelled", finish_reason="cancelled")
"""How a run ends that a caller or an operator stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What a run that was cut off leaves in its thread: items, and the engine's state for the next run."""

    items: list[Item] = field(repr=False)
    engine_key: str
    state: Mapping[str, Any] | None = field(repr=False)


class RunEnded(JournalError):
    """The run has an outcome already, so nothing more of it may be sealed but its end."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(f"the run is {ending.status} already")
        self.ending = ending


class ThreadBusy(JournalError):
    """The thread has a run under way; `run_id` names it."""

    def __init__(self, run_id: str) -> None:
        super().__init__("the thread has a run under way")
        self.run_id = run_id


class UnknownThread(JournalError):
    """The app has no such thread."""


def shared(source: object, target: type) -> dict[str, Any]:
    """Return what `source` has of the fields of a dataclass, by name: one value on its way into another."""
    return {one.name: getattr(source, one.name) for one in fields(target) if hasattr(source, one.name)}
