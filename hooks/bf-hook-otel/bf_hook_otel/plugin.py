"""The plugin: what its hooks tell traces and metrics."""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span

from bf_hook_otel import names
from bf_hook_otel.attributes import Describer
from bf_hook_otel.meters import Meters
from bf_hook_otel.providers import Providers, open_providers
from bf_hook_otel.settings import read_settings
from bf_hook_otel.traces import Traces, error_name
from bf_plugin import Outcome, PluginContext, Run, RunDraft, Step, StopRun, ToolCall, ToolResult, hookimpl
from bf_plugin.values import StopReason

SCOPE = "bf_hook_otel"

_log = logging.getLogger(__name__)


class Otel:
    """Traces and metrics of runs. What it records with is looked for once, when the gateway starts."""

    def __init__(self, context: PluginContext) -> None:
        apps = None if context.settings is None else context.settings.apps
        self._settings = read_settings(context.section, apps)
        self._context = context
        self._describer = Describer(context.settings, self._settings.provider_names)
        self._lock = threading.Lock()  # one of those who come first looks, the others wait for it
        self._signals: tuple[Providers, Traces | None, Meters | None] | None = None

    def warm_up(self) -> None:
        """Look for the providers, and open what was asked for."""
        self._found()

    @property
    def port(self) -> int | None:
        """Where the metrics of this process are served, None where they are not."""
        return self._found()[0].port

    @hookimpl(trylast=True)
    def before_run(self, run: RunDraft) -> None:
        """Choose the span of the run; last, since others may refuse it or change what it is."""
        _, traces, _ = self._found()
        if traces is not None:
            with contained("the span of a run was not chosen"):
                traces.accept(run)

    @hookimpl(wrapper=True, tryfirst=True)
    def on_tool_call(self, run: Run, call: ToolCall) -> Generator[None, object, object]:
        """Time the call, around all other plugins; an awaitable is timed until it is awaited."""
        _, traces, meters = self._found()
        timed = TimedCall(run, call, traces, meters)
        try:
            with timed.current():
                answer = yield
        except BaseException as error:
            timed.failed(error)
            raise
        if inspect.isawaitable(answer):
            return TimedAnswer(answer, timed)
        timed.answered(answer)
        return answer

    @hookimpl
    def on_stop(self, run: Run, reason: StopReason) -> None:
        """Count the stop: why a run was stopped is told here only."""
        _, _, meters = self._found()
        with contained("a stop was not counted"):
            if meters is not None:
                meters.stopped(run, reason)

    @hookimpl
    def on_end(self, run: Run, outcome: Outcome) -> None:
        """Make the spans and count the run."""
        _, traces, meters = self._found()
        steps = _all_steps(run, outcome)
        with contained("the spans of a run were not made"):
            if traces is not None:
                traces.ended(run, outcome, steps)
        with contained("a run was not counted"):
            if meters is not None:
                meters.ended(run, outcome, steps)

    def close(self) -> None:
        """Send what is left."""
        with self._lock:
            signals, self._signals = self._signals, (Providers(), None, None)
        if signals is not None:
            signals[0].close()

    def _found(self) -> tuple[Providers, Traces | None, Meters | None]:
        if self._signals is None:
            with self._lock:
                if self._signals is None:
                    self._signals = self._open()
        return self._signals

    def _open(self) -> tuple[Providers, Traces | None, Meters | None]:
        with contained("nothing is recorded"):
            return self._opened()
        return Providers(), None, None

    def _opened(self) -> tuple[Providers, Traces | None, Meters | None]:
        providers = open_providers(self._settings)
        scope = (SCOPE, version("bf-hook-otel"))
        traces = meters = None
        if providers.tracers is not None:
            tracer: Any = providers.tracers.get_tracer(*scope, schema_url=names.CONVENTIONS)
            traces = Traces(tracer, self._describer, self._settings.has_content)
        if providers.meters is not None:
            meters = Meters(providers.meters, scope, self._describer, self._context.active_runs)
        return providers, traces, meters


@contextmanager
def contained(what: str) -> Iterator[None]:
    """Log a failure of the telemetry instead of raising it: no run is refused, and no tool fails, because of it."""
    try:
        yield
    except Exception:
        _log.exception("otel: %s", what)


class TimedCall:
    """A call of a tool while it is made. It ends once, whoever says so first."""

    def __init__(self, run: Run, call: ToolCall, traces: Traces | None, meters: Meters | None) -> None:
        self._run = run
        self._traces = traces
        self._started = time.perf_counter()
        self._span: Span | None = None
        if traces is not None:
            with contained("the span of a tool call was not started"):
                self._span = traces.tool(run, call)
        self._count = None if meters is None else functools.partial(meters.tool, run, call)
        self._ended = False
        self._patience = call.timeout

    def current(self) -> AbstractContextManager[object]:
        """Make its span that of this thread or task: what the tool does is below it."""
        if self._span is None:
            return nullcontext()
        return trace.use_span(self._span, record_exception=False, set_status_on_exception=False)

    def answered(self, answer: object) -> None:
        """End it with what the model is told."""
        result = answer if isinstance(answer, ToolResult) else ToolResult(answer)
        if self._overdue():  # the model was told that there is none
            self._end(None, names.TIMEOUT)
        else:
            self._end(result.output, names.TOOL_ERROR if result.is_error else None)

    def failed(self, error: BaseException) -> None:
        """End it with what was raised. A tool that ends its run has done what it should."""
        self._end(None, None if isinstance(error, StopRun) else error_name(error))

    def left(self, *, overdue: bool = False) -> None:
        """End it because nobody waits for it any more: its time is over, or its run is."""
        self._end(None, names.TIMEOUT if overdue or self._overdue() else names.CANCELLED)

    def _overdue(self) -> bool:
        return time.perf_counter() - self._started >= self._patience

    def _end(self, output: object, error: str | None) -> None:
        if self._ended:
            return
        self._ended = True
        seconds = time.perf_counter() - self._started
        with contained("a tool call was not recorded"):
            if self._span is not None and self._traces is not None:
                self._traces.tool_ended(self._run, self._span, output, error)
            if self._count is not None:
                self._count(seconds, error)


class TimedAnswer:
    """An awaitable that a tool returned, as another one that says when it is over."""

    def __init__(self, answer: Awaitable[object], timed: TimedCall) -> None:
        self._answer = answer
        self._timed = timed

    def __await__(self) -> Generator[Any, None, object]:
        return self._awaited().__await__()

    async def _awaited(self) -> object:
        try:
            with self._timed.current():
                answer = await self._answer
        except Exception as error:
            self._timed.failed(error)
            raise
        except BaseException as error:
            self._timed.left(overdue=error.args == ("timeout",))  # as bf_plugin cancels what takes too long
            raise
        self._timed.answered(answer)
        return answer

    def close(self) -> None:
        """Let go of it: it is over, or will not be awaited."""
        close = getattr(self._answer, "close", None)
        if callable(close):
            close()
        self._timed.left()


def _all_steps(run: Run, outcome: Outcome) -> Sequence[Step]:
    """Return the steps of a run, with the one that was cut off."""
    if run.step is None or run.step.ended_at is not None or run.step in outcome.steps:
        return outcome.steps
    return [*outcome.steps, run.step]
