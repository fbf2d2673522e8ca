"""The metrics: how many runs, how long, how many tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from bf_hook_otel import names
from bf_hook_otel.attributes import Describer
from bf_hook_otel.traces import cut_off_by
from bf_plugin import Outcome, Run, Step, ToolCall
from bf_plugin.errors import ContextError
from bf_plugin.values import StopReason

Count = Callable[[], int]

_counting: WeakKeyDictionary[MeterProvider, WeakSet[Meters]] = WeakKeyDictionary()
"""Whose runs are counted together: a provider has one instrument of a name, however many mounts of a process use it."""


class Meters:
    """The instruments of one gateway on a meter provider; `active` counts its runs under way."""

    def __init__(self, provider: MeterProvider, scope: tuple[str, str], describer: Describer, active: Count) -> None:
        meter = provider.get_meter(*scope, schema_url=names.CONVENTIONS)
        self._describer = describer
        self.active = active
        self._operation = _histogram(meter, names.OPERATION_DURATION, "s", "GenAI operation duration.", names.SECONDS)
        self._chunk = _histogram(
            meter, names.FIRST_CHUNK, "s", "Time from asking the model to the first text of its answer.", names.SECONDS
        )
        self._tokens = _histogram(
            meter, names.TOKEN_USAGE, "{token}", "Number of input and output tokens used.", names.TOKENS
        )
        self._agent = _histogram(meter, names.AGENT_DURATION, "s", "Duration of a run.", names.LONG_SECONDS)
        self._calls = _histogram(
            meter, names.AGENT_CALLS, "{inference_call}", "Answers of the model that a run took.", names.CALLS
        )
        self._tool = _histogram(meter, names.TOOL_DURATION, "s", "Duration of a tool call.", names.SECONDS)
        self._first = _histogram(
            meter, names.FIRST_TEXT, "s", "Time from the start of a run to its first text.", names.SECONDS
        )
        self._runs = meter.create_counter(names.RUNS, "{run}", "Runs that are over, by how they ended.")
        self._stops = meter.create_counter(names.STOPS, "{stop}", "Runs that were stopped, by why.")
        _count_active(provider, meter, self)

    def stopped(self, run: Run, reason: StopReason) -> None:
        """Count a run that is being stopped."""
        self._stops.add(1, {**self._describer.model(run), names.STOP_REASON: reason})

    def tool(self, run: Run, call: ToolCall, seconds: float, error: str | None) -> None:
        """Count a tool call. A tool that the run does not offer has no name here: a model may invent any."""
        name = call.name if call.tool is not None else names.OTHER
        about = {names.TOOL_NAME: name, names.TOOL_TYPE: "function"}
        if run.app in self._describer.named:
            about[names.APP] = run.app
        self._tool.record(seconds, about if error is None else {**about, names.ERROR_TYPE: error})

    def ended(self, run: Run, outcome: Outcome, steps: Sequence[Step]) -> None:
        """Count a run that is over, and its steps."""
        model = self._describer.model(run)
        failed = {} if outcome.error_code is None else {names.ERROR_TYPE: outcome.error_code}
        self._runs.add(1, {**model, **failed, names.STATUS: outcome.status, names.FINISH_REASON: outcome.finish_reason})
        agent = {names.OPERATION: names.INVOKE_AGENT, **model}
        self._agent.record(outcome.duration, {**agent, **failed})
        self._calls.record(len(steps), agent)
        texts = [step.first_text_at for step in steps if step.first_text_at is not None]
        if texts:
            self._first.record(max(texts[0] - run.started_at, 0.0), agent)
        for step in steps:
            self._step(step, outcome, run.started_at + outcome.duration, {names.OPERATION: names.CHAT, **model})

    def _step(self, step: Step, outcome: Outcome, end: float, about: dict[str, object]) -> None:
        failed = {} if step.ended_at is not None else {names.ERROR_TYPE: cut_off_by(outcome)}
        self._operation.record(max((step.ended_at or end) - step.started_at, 0.0), {**about, **failed})
        if step.first_text_at is not None:
            self._chunk.record(max(step.first_text_at - step.started_at, 0.0), about)
        if step.usage.total_tokens:
            self._tokens.record(step.usage.prompt_tokens, {**about, names.TOKEN_TYPE: "input"})
            self._tokens.record(step.usage.completion_tokens, {**about, names.TOKEN_TYPE: "output"})


def _histogram(meter: Meter, name: str, unit: str, description: str, bounds: Sequence[float]):  # type: ignore[no-untyped-def]
    return meter.create_histogram(name, unit, description, explicit_bucket_boundaries_advisory=bounds)


def _count_active(provider: MeterProvider, meter: Meter, meters: Meters) -> None:
    if provider in _counting:
        _counting[provider].add(meters)
        return
    _counting[provider] = everybody = WeakSet([meters])

    def observe(_: CallbackOptions) -> Iterable[Observation]:
        counts = []
        for one in list(everybody):
            try:
                counts.append(one.active())
            except ContextError:  # it is closed
                everybody.discard(one)
        return [Observation(sum(counts))] if counts else []

    meter.create_observable_up_down_counter(
        names.RUNS_ACTIVE, [observe], "{run}", "Runs that this process drives now, or is about to."
    )
