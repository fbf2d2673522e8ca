"""The port between the driver and a model provider.

An engine turns one step (a request to the model) into events. What it must remember between steps is its `state`,
plain JSON that the journal keeps per thread, engine, base URL and key; when one of these changes the engine is handed
no state and starts from the history. Nothing of an SDK appears here. All methods run on the plugin's event loop.

`Engine` and `Stream` are what every engine must have. What it may have besides stands, with its defaults, in
`BaseEngine` and `BaseStream`: inherit from them. An engine that does not may still have any of these powers;
`bf_plugin.engines.adapted` fills in the others when it is loaded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bf_plugin.errors import ProviderError
from bf_plugin.items import FunctionCall, Item, Tool
from bf_plugin.values import FinishReason, RunDraft, Usage

State = Mapping[str, Any]
"""What an engine remembers of a thread: JSON of its own, opaque to everybody else."""

Handle = Mapping[str, Any]
"""What names one response at the provider, for `cancel` and `resume`: JSON of the engine's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whose key to use and where. `base_url` None is the provider's own.

    `traceparent` and `tracestate` are the W3C trace context of the run, for the headers of what the provider is asked.
    """

    api_key: str = field(repr=False)
    base_url: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRequest:
    """One question to the model.

    `new` are the items the state does not cover yet, oldest first. `history` reads the whole thread up to, not
    including, `new`: needed without a state, or when the provider has lost what the state names. `max_tokens` is what
    is left of the run's budget.
    """

    run_id: str
    number: int
    model: str
    instructions: str | None = field(repr=False)
    tools: Sequence[Tool] = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    new: Sequence[Item] = field(repr=False)
    state: State | None = field(repr=False)
    history: Callable[[], Awaitable[Sequence[Item]]] = field(repr=False)
    max_tokens: int | None = None


@dataclass(slots=True)
class Text:
    """Text (or a refusal, which is shown as text) in provider order.

    `sequence` is the provider's cursor after this event (-1: it has none), `part` the (output, content) indexes.
    """

    text: str
    sequence: int = -1
    part: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """The model finished. Tool calls in `calls` are to be answered in the next step's `new`.

    `items` are what it produced, for the thread's history. `content` is the assistant's content in the published form,
    `{"type": "text", "text": {"value": ..., "annotations": [...]}}`, annotations only where there are any.
    """

    state: State | None
    items: Sequence[Item] = ()
    calls: Sequence[FunctionCall] = ()
    content: Sequence[Mapping[str, Any]] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason = "stop"


Event = Text | StepDone

Take = Callable[[Sequence[Event]], None]
"""Takes events, on the event loop; it does not block, and returns at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far a response was used: the provider's sequence number (-1: none is known), and the raw text by part."""

    sequence: int
    texts: Mapping[tuple[int, int], str] = field(repr=False)


class Stream(Protocol):
    """The answer to one step, while it is being made."""

    handle: Handle
    """Names the response; known before the first event."""

    async def read(self, take: Take) -> None:
        """Call `take` with events as they come, those of one network read together; the last is a `StepDone`.

        Returns after it. Raises ProviderError when the response fails or is lost. A connection that just ends is not an
        end: the engine reconnects or polls by itself. Called once; cancelled when the run is broken off, after which
        `take` is not called any more.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the connection; the response at the provider goes on."""
        ...


class Holdable(Protocol):
    """A stream that need not be read as fast as it comes."""

    def hold(self, holding: bool) -> None:
        """Read nothing from now on, or go on; called on the event loop, at any time during `read`.

        Text that came would have to wait: for a gateway that is slow, or since a busy process joins more text. What the
        provider sends meanwhile stays in the network's buffers. Events may still come after this; a connection held is
        not a silent one.
        """
        ...


class Checks(Protocol):
    """An engine that looks at runs before they exist."""

    def check(self, run: RunDraft, access: Access) -> Sequence[str]:
        """Return a warning for each thing that will be ignored; they are told with the start's answer, and logged.

        Raises RequestError, as `bf_plugin.errors.invalid` makes it, for a run that cannot be served. `run` is as
        `before_run` left it, not to be changed; `access.api_key` is "" where there is no key. It must not block.
        """
        ...


class Engine(Protocol):
    """Talks to one provider; serves all runs of a process."""

    async def start(self, request: StepRequest, access: Access) -> Stream:
        """Ask the model; return once the provider has accepted and named the response.

        Raises ProviderError when it refuses. Never asks twice for one step unless the provider provably did nothing.
        """
        ...

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> Stream:
        """Follow a response that an earlier process was reading: text behind `cursor`, then its StepDone.

        A response that can no longer be followed raises ProviderError with code `provider_lost_response`, here or from
        the stream.
        """
        ...

    async def cancel(self, handle: Handle, access: Access) -> Usage | None:
        """Cancel a response, any number of times; return its usage if reported. Never raises for one that is over."""
        ...

    def cut(self, state: State | None, handle: Handle | None) -> State | None:
        """Return the state to keep for a thread whose step was cut off (stop, failure, crash).

        `state` is what the step began with, `handle` the response that will not be finished, None if it was never
        named. The items of the cut step stay in the history and come back in the next step's `new`.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


class BaseStream(Stream, Holdable):
    """A stream with its optional power: one that cannot be held is read as it comes, and its text waits in memory."""

    def hold(self, holding: bool) -> None:
        """Do nothing."""


class BaseEngine(Engine, Checks):
    """An engine with its optional powers, which do nothing here."""

    needs_key = False
    """Whether a start without a provider key is refused. One for a provider whose key has a setting (`openai`) is."""

    stateless = False
    """Whether the provider keeps nothing of a thread, so that there is nothing to forget."""

    @property
    def can_forget(self) -> bool:
        """Whether `forget` is implemented."""
        return type(self).forget is not BaseEngine.forget

    async def start(self, request: StepRequest, access: Access) -> BaseStream:
        """Ask the model; see the port."""
        raise NotImplementedError

    async def resume(self, handle: Handle, cursor: Cursor, access: Access) -> BaseStream:
        """Say that the response is lost."""
        raise ProviderError("this provider's responses cannot be resumed", code="provider_lost_response")

    def warm_up(self) -> None:
        """Load what takes long. Called once, in a thread, when the gateway starts."""

    def check(self, run: RunDraft, access: Access) -> Sequence[str]:
        """Accept every run, without a warning."""
        return ()

    async def forget(self, names: Sequence[Handle], access: Access) -> bool:
        """Delete what `names` (handles, and a state) name at the provider; tell whether nothing of it is left."""
        return False
