"""What differs between providers: the port between the one engine and their SDKs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bf_hook_providers.sections import Section
from bf_hook_providers.turns import Conversation
from bf_plugin import ProviderError, RunDraft, Usage
from bf_plugin.engines.port import StepRequest
from bf_plugin.items import FilePart, FunctionCall, ImagePart
from bf_plugin.values import FinishReason

Body = Mapping[str, Any]
"""A request as the provider's API has it."""

Chunks = AsyncIterator[Any]
"""An answer as the SDK hands it out: objects of its own, read and closed where they came from."""


def parted(body: Body, typed: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that an SDK has parameters for, and the rest, which goes beside them."""
    rest = {name: value for name, value in body.items() if name not in typed}
    return {name: body[name] for name in typed}, rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How an answer ended. `kept` is what the provider wants to see again while its calls are answered."""

    finish_reason: FinishReason
    calls: Sequence[FunctionCall] = field(default=(), repr=False)
    usage: Usage | None = None
    kept: Any = field(default=None, repr=False)


class Reader(ABC):
    """Reads one answer. `over` once all that matters has come, `usage` as far as it was told."""

    response_id: str | None = None
    usage: Usage | None = None
    over: bool = False

    @abstractmethod
    def take(self, chunk: Any) -> str:
        """Return the text in a chunk, "" without any. Raises ProviderError when the provider fails."""

    @abstractmethod
    def finish(self) -> Finish:
        """Return how the answer ended. Raises ProviderError when it did not, or ended in a failure."""


class Provider(ABC):
    """One provider as an operator set it up. `name` is what callers write, `module` what its SDK is imported as."""

    name: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str | None] = None
    section: Section

    @property
    def problem(self) -> str | None:
        """Why it cannot be used, None if it can."""
        return None

    @property
    def needs_key(self) -> bool:
        """Whether a request without a key makes no sense."""
        return True

    @abstractmethod
    def load(self) -> None:
        """Import the SDK with what it loads late. Takes seconds: called in a thread."""

    @abstractmethod
    async def connect(self) -> Any:
        """Return an SDK client for all requests, whoever's key they carry. What takes long it does in a thread."""

    @abstractmethod
    async def close(self, client: Any) -> None:
        """Close a client and its connections."""

    @abstractmethod
    def body(self, request: StepRequest, talk: Conversation) -> Body:
        """Return the request for a step. Raises ProviderError for what the provider has no way to say."""

    @abstractmethod
    async def ask(self, client: Any, body: Body, headers: Mapping[str, str], key: str) -> Chunks:
        """Ask, once. Raises what the SDK raises, here or from the chunks."""

    @abstractmethod
    def reader(self) -> Reader:
        """Return a reader for one answer."""

    @abstractmethod
    def problem_of(self, error: Exception, key: str) -> ProviderError | None:
        """Return what an exception of the SDK means, None for one that says no more than that the connection failed."""

    @abstractmethod
    def part_problem(self, part: ImagePart | FilePart) -> str | None:
        """Return why an image or a file cannot be shown to the model, None if it can."""

    @abstractmethod
    def review(self, run: RunDraft) -> Iterator[str]:
        """Yield a warning for each thing that is ignored. Raises RequestError for what cannot be done."""
