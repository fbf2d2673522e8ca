"""What is said of a collector that does not take what it is sent: one line when it begins, one when it is over.

The SDK says it for each batch, several times. Its lines on what is ours are left out, unless this package's logger is
at DEBUG; those on exporters that others made in this process are not touched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_SPEAKING = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
"""The loggers through which the SDK says it."""

_HEARD: ContextVar[list[str] | None] = ContextVar("bf_hook_otel_heard", default=None)
"""What the SDK has said of the present export of ours, None while there is none."""

_STATUS = re.compile(r"StatusCode\.[A-Z_]+|[A-Z][A-Za-z' -]{2,60}")

_log = logging.getLogger(__name__)


class Queue(BatchSpanProcessor):
    """The SDK's own, quiet while it is full: that the collector takes nothing was said."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span."""
        with _listening():
            super().on_end(span)


def watch(exporter: Any, what: str, where: str) -> Any:
    """Return the exporter, of which it is said once when it fails, and once when it works again."""
    exporter.export = _Watch(exporter.export, what, where)
    for name in _SPEAKING:
        logger = logging.getLogger(name)
        if _not_ours not in logger.filters:
            logger.addFilter(_not_ours)
    return exporter


def close(exporter: Any, shutdown: Callable[[], object]) -> None:
    """Shut down the provider of an exporter; to a collector that takes nothing, what is left is not offered again."""
    with _listening():
        if exporter.export.failing:
            exporter.shutdown()
        shutdown()


class _Watch:
    """Stands in for `export`; `failing` while the collector takes nothing."""

    def __init__(self, export: Callable[..., Any], what: str, where: str) -> None:
        self._export = export
        self._what = what
        self._where = where
        self.failing = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result: Any = None  # which the SDK does not look at
        with _listening() as heard:
            try:
                result = self._export(*args, **kwargs)
            except Exception as error:
                heard.append(type(error).__name__)
        before, self.failing = self.failing, result is None or result.name == "FAILURE"
        if self.failing and not before:
            why = f" ({', '.join(dict.fromkeys(heard))})" if heard else ""
            _log.warning(
                "otel: the collector at %s does not take %s%s. Runs go on, what it does not take is lost, and this is "
                "said once. Look at the collector, and at OTEL_EXPORTER_OTLP_*; this logger's DEBUG says more",
                self._where,
                self._what,
                why,
            )
        elif before and not self.failing:
            _log.warning("otel: the collector at %s takes %s again", self._where, self._what)
        return result


@contextmanager
def _listening() -> Iterator[list[str]]:
    heard: list[str] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


def _not_ours(record: logging.LogRecord) -> bool:
    """Let a line of the SDK pass if it is not on an export of ours; else keep its reason, which is never a URL."""
    heard = _HEARD.get()
    if heard is None:
        return True
    heard += [reason for value in record.args or () if (reason := _reason(value))]
    return _log.isEnabledFor(logging.DEBUG)


def _reason(value: object) -> str:
    """Return what a value in a line of the SDK says of the failure: an exception, or a status of HTTP or gRPC."""
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, int) and 100 <= value <= 599:
        return f"HTTP {value}"
    return str(value) if value is not None and _STATUS.fullmatch(str(value)) else ""
