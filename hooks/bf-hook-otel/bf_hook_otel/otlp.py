"""Exporters to a collector, as OpenTelemetry's environment variables ask for them."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal
from urllib.parse import urlsplit

from bf_hook_otel.collector import watch

Signal = Literal["TRACES", "METRICS"]

_log = logging.getLogger(__name__)


def asked_for(signal: Signal) -> Literal["otlp", "console"] | None:
    """Return which exporter the environment asks for; OTLP is asked for by its endpoint too."""
    named = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    if named in ("otlp", "console"):
        return "otlp" if named == "otlp" else "console"
    if named not in ("", "none"):
        _log.error(
            "otel: OTEL_%s_EXPORTER=%s is not known here: use otlp, console or none (and for Prometheus "
            "prometheus_port in [plugins.otel])",
            signal,
            named,
        )
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return "otlp" if named == "" and any(os.environ.get(name) for name in endpoints) else None


def _protocol(signal: Signal) -> str:
    general = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or general


def _where(signal: Signal) -> str:
    """Return host and port of the collector, and nothing else of its URL, which may hold a password or a key.

    Raises ValueError.
    """
    url = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not url:
        return "localhost:4317" if _protocol(signal) == "grpc" else "localhost:4318"
    parts = urlsplit(url if "//" in url else f"//{url}")
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def otlp_exporter(signal: Signal) -> Any:
    """Return an exporter that reads the rest of its settings in the environment; None, and a line, if none can be.

    Of a collector that takes nothing it is said once, see `collector`.
    """
    makers = {"http/protobuf": _http, "grpc": _grpc}
    what = "spans" if signal == "TRACES" else "metrics"
    protocol = _protocol(signal)
    if protocol not in makers:
        _log.error("otel: OTLP protocol %s is not known here: use http/protobuf or grpc", protocol)
        return None
    try:
        return watch(makers[protocol](signal), what, _where(signal))
    except ImportError:
        _log.error("otel: OTLP over gRPC is not installed: pip install 'bf-hook-otel[grpc]', or use http/protobuf")
    except ValueError:  # whose text may hold a part of the URL
        _log.error(
            "otel: %s are not sent: an OTEL_EXPORTER_OTLP_* variable has a value that cannot work: look at the "
            "endpoint, which is like http://collector:4318, and at time-outs, which are seconds",
            what,
        )
    return None


def _http(signal: Signal) -> Any:
    if signal == "TRACES":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def _grpc(signal: Signal) -> Any:
    if signal == "TRACES":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()
