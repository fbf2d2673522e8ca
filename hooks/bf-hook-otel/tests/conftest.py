"""What the tests record with: the SDK's own exporters into memory, and an OTLP receiver over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once


@dataclass
class Recorded:
    """What was recorded through the providers of the process."""

    tracers: TracerProvider
    reader: InMemoryMetricReader
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def points(self) -> dict[str, list[Any]]:
        """Return the data points by the metric's name."""
        data = self.reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No provider of the process, and nothing of OpenTelemetry in its environment."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    # The API lets them be set once in a process; this is what its own tests do to set them again.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def record() -> Iterator[Callable[..., Recorded]]:
    """Return a function that configures the process as its operator would, to record into memory."""
    made: list[Any] = []

    def configure(**options: Any) -> Recorded:
        tracers, reader = TracerProvider(**options), InMemoryMetricReader()
        recorded = Recorded(tracers, reader)
        tracers.add_span_processor(SimpleSpanProcessor(recorded.exporter))
        meters = MeterProvider([reader])
        trace.set_tracer_provider(tracers)
        metrics.set_meter_provider(meters)
        made.extend((tracers, meters))
        return recorded

    yield configure
    for provider in made:
        provider.shutdown()


@pytest.fixture
def recorded(record: Callable[..., Recorded]) -> Recorded:
    """Providers that sample everything, in place before the plugin is."""
    return record()
