"""Where spans and metrics go: to the providers of the process where there are some, else to providers of our own.

Ours are made of OpenTelemetry's environment variables and of `[plugins.otel]`. They are never made global: whoever has
other instrumentations in the process configures the SDK for all of them.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from bf_hook_otel import collector
from bf_hook_otel.otlp import asked_for, otlp_exporter
from bf_hook_otel.settings import OtelSettings

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

_PATIENCE = 8.0
"""Seconds that a collector gets at the end to take what is left; bf_plugin waits for ten in all."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Providers:
    """What there is to record with: None where a signal goes nowhere. `port` is where the metrics are served."""

    tracers: TracerProvider | None = None
    meters: MeterProvider | None = None
    port: int | None = None
    closing: list[Callable[[], object]] = field(default_factory=list)

    def close(self) -> None:
        """Send what is left and let go of what is our own; a collector that does not answer is left behind."""
        threads = [threading.Thread(target=close, name="bf-otel-close", daemon=True) for close in self.closing]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE / len(threads))
        if any(thread.is_alive() for thread in threads):
            _log.warning("otel: the collector does not answer: the newest spans and metrics are lost")


def open_providers(settings: OtelSettings) -> Providers:
    """Find or make the providers; opens connections, threads and the port that are asked for."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

    made = Providers()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        _log.info("otel: off, since OTEL_SDK_DISABLED says so")
        return made
    tracers, meters = trace.get_tracer_provider(), metrics.get_meter_provider()
    if isinstance(tracers, TracerProvider):
        made.tracers = tracers
    else:
        _warn_of_other("tracer", tracers, trace.ProxyTracerProvider, trace.NoOpTracerProvider)
        _own_tracers(made)
    if isinstance(meters, MeterProvider):
        made.meters = meters
        if settings.prometheus or settings.prometheus_port is not None:
            _log.warning(
                "otel: the process has a meter provider of its own, which is used: [plugins.otel] prometheus settings "
                "are ignored; add a PrometheusMetricReader to that provider"
            )
    else:
        _own_meters(made, settings)
    if made.tracers is None and made.meters is None:
        _log.warning(
            "otel: nothing is exported: set OTEL_EXPORTER_OTLP_ENDPOINT, or prometheus or prometheus_port in "
            "[plugins.otel], or configure the OpenTelemetry SDK in this process"
        )
    return made


def _warn_of_other(kind: str, provider: object, *unset: type) -> None:
    if not isinstance(provider, unset):
        _log.warning(
            "otel: the process has a %s provider that is not the SDK's (%s), and cannot be used: spans that outlive a "
            "process need ids of our choosing",
            kind,
            type(provider).__qualname__,
        )


def _own_tracers(made: Providers) -> None:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    kind = asked_for("TRACES")
    if kind == "console":
        _trace_to(made, SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
    elif kind == "otlp" and (exporter := otlp_exporter("TRACES")) is not None:
        _trace_to(made, collector.Queue(exporter), exporter)


def _trace_to(made: Providers, processor: SpanProcessor, exporter: Any = None) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    made.tracers = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    made.tracers.add_span_processor(processor)
    made.closing.append(_closing(made.tracers.shutdown, exporter))


def _own_meters(made: Providers, settings: OtelSettings) -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    readers: list[MetricReader] = []
    exporter: Any = None
    kind = asked_for("METRICS")
    if kind == "console":
        readers.append(PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stdout)))
    elif kind == "otlp" and (exporter := otlp_exporter("METRICS")) is not None:
        readers.append(PeriodicExportingMetricReader(exporter))
    if settings.prometheus or settings.prometheus_port is not None:
        readers += _prometheus(made, settings)
    if readers:
        made.meters = MeterProvider(readers, _resource(), shutdown_on_exit=False)
        made.closing.append(_closing(made.meters.shutdown, exporter))


def _closing(shutdown: Callable[[], object], exporter: Any) -> Callable[[], object]:
    return shutdown if exporter is None else functools.partial(collector.close, exporter, shutdown)


def _prometheus(made: Providers, settings: OtelSettings) -> list[MetricReader]:
    """Return a reader for each registry that the settings ask for, and serve the port if they name one."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry

    readers: list[MetricReader] = [PrometheusMetricReader()] if settings.prometheus else []
    if settings.prometheus_port is not None:
        registry = CollectorRegistry()
        readers.append(PrometheusMetricReader(registry=registry))
        _serve(made, settings, settings.prometheus_port, registry)
    return readers


def _serve(made: Providers, settings: OtelSettings, first: int, registry: Any) -> None:
    """Serve a registry on the first port that is free: each process of a host has one."""
    from prometheus_client import start_http_server

    host = settings.prometheus_host
    for port in range(first, first + settings.prometheus_ports):
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                _log.error("otel: the metrics cannot be served on %s:%s: %s", host, port, error.strerror or error)
                return
            continue
        made.port = server.server_port
        made.closing.append(functools.partial(_stop_serving, server, thread))
        _log.info("otel: metrics are served on http://%s:%s/metrics", host, made.port)
        return
    last = first + settings.prometheus_ports - 1
    _log.error(
        "otel: the metrics of this process are not served: ports %s to %s of %s are taken; raise prometheus_ports to "
        "the number of processes that drive runs on this host",
        first,
        last,
        host,
    )


def _stop_serving(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    thread.join()
    server.server_close()


def _resource() -> Resource:
    """Return what the environment says of this service, with a name, and an id that tells its processes apart."""
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    said = Resource.create()
    ours: dict[str, Any] = {}
    if str(said.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        ours[SERVICE_NAME] = "bf_plugin"
    if SERVICE_INSTANCE_ID not in said.attributes:
        ours[SERVICE_INSTANCE_ID] = str(uuid.uuid4())
    return said.merge(Resource(ours))
