"""Spans whose ids and sampling are decided already.

The SDK gives a span its id and asks the sampler when it is started. The span of a run is started after its end, perhaps
in another process than the one that took the run, and its children have named it as their parent long before. So both
are chosen when the run is accepted, kept in its record, and handed to the SDK here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import TraceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is decided of the next span; `span_id` None: any."""

    trace_id: int
    span_id: int | None
    state: TraceState | None


_CHOICE: ContextVar[Choice | None] = ContextVar("bf_hook_otel_choice", default=None)


@contextmanager
def chosen(choice: Choice) -> Iterator[None]:
    """Let spans that are started within be as decided, by a tracer that `obeys`."""
    token = _CHOICE.set(choice)
    try:
        yield
    finally:
        _CHOICE.reset(token)


class ChosenIds(IdGenerator):
    """The ids that were chosen, else those of the provider's own generator."""

    def __init__(self, own: IdGenerator) -> None:
        self.own = own

    def generate_span_id(self) -> int:
        """Return the id of a span."""
        choice = _CHOICE.get()
        return self.own.generate_span_id() if choice is None or choice.span_id is None else choice.span_id

    def generate_trace_id(self) -> int:
        """Return the id of a trace, asked for where a span has no parent."""
        choice = _CHOICE.get()
        return self.own.generate_trace_id() if choice is None else choice.trace_id

    def is_trace_id_random(self) -> bool:
        """Tell what the provider's own generator tells; those before 1.44 are not asked."""
        return bool(getattr(self.own, "is_trace_id_random", bool)())


class ChosenSampler(Sampler):
    """Samples what was chosen, since nothing else is: a run that is not sampled has no spans. Else the provider's."""

    def __init__(self, own: Sampler) -> None:
        self.own = own

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """Decide, as the SDK asks for each span."""
        choice = _CHOICE.get()
        if choice is None:
            return self.own.should_sample(parent_context, trace_id, name, kind, attributes, links)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, choice.state)

    def get_description(self) -> str:
        """Return how it is called in what the SDK prints."""
        return f"ChosenSampler({self.own.get_description()})"


def obeys(tracer: Tracer) -> tuple[ChosenIds, ChosenSampler]:
    """Make a tracer obey `chosen`, and return the generator and the sampler it had, wrapped.

    A provider gives the same tracer to all who name the same scope, another mount of this process for instance.
    """
    if not isinstance(tracer.id_generator, ChosenIds):
        tracer.id_generator = ChosenIds(tracer.id_generator)
    if not isinstance(tracer.sampler, ChosenSampler):
        tracer.sampler = ChosenSampler(tracer.sampler)
    return tracer.id_generator, tracer.sampler
