"""Where it goes: to a real OTLP receiver, over HTTP and gRPC; settings, of OpenTelemetry and ours; and failures."""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import requests
from bf_hook_otel import create, names, providers
from bf_hook_otel.collector import watch
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace.export import SpanExportResult

from bf_plugin.testing import (
    Deployment,
    Gate,
    Site,
    assert_events,
    new_draft,
    new_outcome,
    new_run,
)
from bf_plugin.testing.deployment import ACTION, APP_KEY, CHANNEL, PROVIDER_KEY
from bf_plugin.testing.provider import call as asks
from bf_plugin.testing.provider import text

Deploy = Callable[..., Deployment]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Receiver:
    """Takes OTLP as a collector does, and keeps what it says: spans by name, metrics by name.

    With another `status` than 200 it takes nothing.
    """

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.schemas: set[str] = set()
        self.bodies: list[bytes] = []
        self.spans: list[tuple[dict[str, Any], Any]] = []
        self.metrics: dict[str, Any] = {}
        self._changed = threading.Condition()

    def take(self, path: str, body: bytes) -> None:
        with self._changed:
            self.bodies.append(body)
            if path.endswith("/traces"):
                traces = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
                for each in traces.resource_spans:
                    about = {pair.key: pair.value.string_value for pair in each.resource.attributes}
                    self.schemas |= {scope.schema_url for scope in each.scope_spans}
                    self.spans += [(about, span) for scope in each.scope_spans for span in scope.spans]
            else:
                metrics = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                scopes = [scope for each in metrics.resource_metrics for scope in each.scope_metrics]
                self.schemas |= {scope.schema_url for scope in scopes}
                self.metrics |= {metric.name: metric for scope in scopes for metric in scope.metrics}
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 30), [span.name for _, span in self.spans]

    def named(self, name: str) -> list[Any]:
        return [span for _, span in self.spans if span.name == name]


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    """A receiver of OTLP over HTTP, and where it is."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.asked += 1
            if kept.status == 200:
                kept.take(self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(kept.status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield kept, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is recorded be sent at once, and not when some seconds are over."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")  # which the last export may take too, on a busy machine


@contextmanager
def said_by(logger: logging.Logger, *, until: str) -> Iterator[list[str]]:
    """Collect what a logger says, and wait at the end until it has said something."""
    lines: list[str] = []
    heard = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())
            if until in lines[-1]:
                heard.set()

    ear = Ear()
    logger.addHandler(ear)
    try:
        yield lines
        assert heard.wait(30), lines
    finally:
        logger.removeHandler(ear)


def a_run(plugin: Any) -> None:
    """Call the hooks of a plugin as one run does."""
    draft = new_draft()
    plugin.before_run(draft)
    plugin.on_end(new_run(traceparent=draft.traceparent, tracestate=draft.tracestate), new_outcome())


def test_what_is_left_is_sent_at_the_end(
    receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch, plugin_context: Any
) -> None:
    """Batches wait for seconds, metrics for a minute: closing the gateway does not wait, and loses nothing."""
    kept, endpoint = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    assert len(kept.named("invoke_agent")) == 1
    assert names.RUNS in kept.metrics


def test_otlp_over_http(receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch, scripted: Deploy) -> None:
    """The endpoint in the environment is enough; no key is in any byte of what is sent."""
    kept, endpoint = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    soon(monkeypatch)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    deployed = scripted("Hello")

    run = deployed.start("Hi")
    deployed.events(run)

    kept.wait_for(lambda: kept.named("invoke_agent") and names.RUNS in kept.metrics)
    (chat,), (agent,) = kept.named("chat gpt-test"), kept.named("invoke_agent")
    assert (chat.trace_id, chat.parent_span_id) == (agent.trace_id, agent.span_id)
    about = kept.spans[0][0]
    assert (about["service.name"], about["deployment.environment.name"]) == ("bf_plugin", "test")
    assert about["service.instance.id"]
    assert kept.metrics[names.RUNS].sum.data_points[0].as_int == 1
    assert kept.schemas == {names.CONVENTIONS}
    for secret in (APP_KEY, PROVIDER_KEY, run["threadId"], "Hi", "Hello"):
        assert not [body for body in kept.bodies if secret.encode() in body]
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)  # nothing was made global


def test_otlp_over_grpc(monkeypatch: pytest.MonkeyPatch, scripted: Deploy) -> None:
    """With the extra installed and the protocol asked for, signal by signal."""
    kept = Receiver()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            kept.take("/traces", request.SerializeToString())
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
            kept.take("/metrics", request.SerializeToString())
            return metrics_service_pb2.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    soon(monkeypatch)
    deployed = scripted("Hello")
    deployed.events(deployed.start())
    kept.wait_for(lambda: kept.named("invoke_agent") and names.RUNS in kept.metrics)
    deployed.application.close()
    server.stop(None).wait()


TOOL = '''
from bf_plugin import Toolbox

tools = Toolbox("sums", offer="always")


@tools.tool(idempotent=True)
def add(a: int, b: int) -> int:
    """Add."""
    return a + b
'''


def test_a_run_whose_process_is_killed(
    receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch, site: Site, tmp_path: Path
) -> None:
    """Two processes, one trace: the span of the run from the second, that of the tool from the first, below it."""
    kept, endpoint = receiver
    (tmp_path / "app.py").write_text(
        TOOL + "\n\nfrom bf_plugin import mount\n\n\ndef gateway(environ, start):\n"
        "    start('404 Not Found', [('Content-Length', '0')])\n    return []\n\n\n"
        "application = mount(gateway, plugins=[tools])\n"
    )
    for name, value in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("PYTHONPATH", str(tmp_path)),
    ):
        site.environ[name] = value
    gate = Gate()
    site.provider.script(asks("add", {"a": 1, "b": 2}), text("once upon ", gate, "a time"))
    serve = ("waitress-serve", "--listen=127.0.0.1:0", "app:application")
    server, sibling = site.serve(*serve), site.serve(*serve)
    run = started(server.url, "Tell me a story")
    requests.get(sibling.url, timeout=30)  # any request starts it
    site.gateway.wait_for(lambda: site.gateway.text(run["runId"]) == "once upon ")
    kept.wait_for(lambda: kept.named("execute_tool add"))

    server.kill()
    gate.release()

    assert_events(site.events(run), text="once upon a time")
    kept.wait_for(lambda: kept.named("invoke_agent"))
    (agent,), (tool,) = kept.named("invoke_agent"), kept.named("execute_tool add")
    chats = kept.named("chat gpt-test")
    assert [agent.trace_id.hex(), agent.parent_span_id.hex()] == PARENT.split("-")[1:3]
    assert {(span.trace_id, span.parent_span_id) for span in (tool, *chats)} == {(agent.trace_id, agent.span_id)}
    assert len(chats) == 2
    instances = {span.name: about["service.instance.id"] for about, span in kept.spans}
    assert instances["execute_tool add"] != instances["invoke_agent"]


def started(url: str, words: str) -> dict[str, Any]:
    """Start a run for a caller that has a trace."""
    payload = {"apiKey": PROVIDER_KEY, "stream": True, "messages": [{"role": "user", "content": words}]}
    body = {"apiKey": APP_KEY, "channels": [CHANNEL], "actionName": ACTION, "payload": payload}
    answer = requests.post(f"{url}/stream/create/assistants", json=body, headers={"traceparent": PARENT}, timeout=30)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


# failures ------------------------------------------------------------------------------------------------------------


def test_a_collector_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, scripted: Deploy, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs go on as ever; one line a signal says so, whatever is lost; the gateway closes within its ten seconds."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://who:secret@127.0.0.1:1/?token=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")  # seconds: it is tried again for so long
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    soon(monkeypatch)
    deployed = scripted(*["Hello"] * 6)
    for _ in range(6):
        assert_events(deployed.events(deployed.start()), text="Hello")
    deployed.gateway.wait_for(lambda: all(f"does not take {what}" in caplog.text for what in ("spans", "metrics")))
    deployed.application.close()

    said = [record.getMessage() for record in caplog.records if record.name.startswith(("bf_hook", "opentelemetry"))]
    assert len(said) == 2, said
    for line in said:
        assert "the collector at 127.0.0.1:1 does not take" in line
        assert "(ConnectionError)" in line
        assert "OTEL_EXPORTER_OTLP_" in line
    assert "secret" not in caplog.text
    assert "a plugin hangs in its close" not in caplog.text


@pytest.mark.parametrize(("status", "why"), [(401, "HTTP 401, Unauthorized"), (503, "Service Unavailable")])
def test_a_collector_that_takes_nothing_for_a_while(
    receiver: tuple[Receiver, str],
    monkeypatch: pytest.MonkeyPatch,
    plugin_context: Any,
    caplog: pytest.LogCaptureFixture,
    status: int,
    why: str,
) -> None:
    """Why, once; and that it does again, once."""
    kept, endpoint = receiver
    kept.status = status
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{endpoint}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    soon(monkeypatch)
    plugin = create(plugin_context())
    with said_by(logging.getLogger("bf_hook_otel"), until="does not take spans") as lines:
        a_run(plugin)
    assert f"({why})" in lines[0]
    kept.status = 200
    a_run(plugin)
    kept.wait_for(lambda: kept.named("invoke_agent"))
    plugin.close()
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("bf_hook", "opentelemetry"))]
    assert [line.partition(" spans")[0].split()[-1] for line in said] == ["take", "takes"]


def test_what_is_left_for_a_collector_that_takes_nothing(
    receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch, plugin_context: Any
) -> None:
    """It is not offered again at the end, which so takes no time."""
    kept, endpoint = receiver
    kept.status = 401
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{endpoint}/v1/traces")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    plugin = create(plugin_context())
    with said_by(logging.getLogger("bf_hook_otel"), until="does not take spans"):
        a_run(plugin)
        a_run(plugin)
    asked = kept.asked
    a_run(plugin)
    plugin.close()
    assert asked > 0
    assert kept.asked == asked


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("collector:4318", "the collector at collector:4318 does not take spans (InvalidSchema)"),
        ("http://secret[", "spans are not sent: an OTEL_EXPORTER_OTLP_* variable has a value that cannot work"),
        ("http://who:secret/@collector", "spans are not sent: an OTEL_EXPORTER_OTLP_* variable has a value that"),
    ],
)
def test_an_endpoint_that_is_none(
    endpoint: str, said: str, monkeypatch: pytest.MonkeyPatch, plugin_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The plugin loads, and the log says what is wrong, without the value."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    assert said in caplog.text
    assert "secret" not in caplog.text


def test_an_exporter_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """Is one that fails: said once, until it works again."""
    broken = RuntimeError("of a secret")
    outcomes: list[RuntimeError | SpanExportResult] = [broken, broken, SpanExportResult.SUCCESS]

    class Exporter:
        def export(self, spans: Any) -> SpanExportResult:
            outcome = outcomes.pop(0)
            if isinstance(outcome, RuntimeError):
                raise outcome
            return outcome

    exporter = watch(Exporter(), "spans", "collector:4318")
    for _ in range(3):
        exporter.export([])
    first, second = [record.getMessage() for record in caplog.records]
    assert "does not take spans (RuntimeError)" in first
    assert second == "otel: the collector at collector:4318 takes spans again"


def test_exporters_of_others_are_not_silenced(
    monkeypatch: pytest.MonkeyPatch, plugin_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What the SDK says of an exporter that is not ours is said; and with our logger at DEBUG, of ours too."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.05")
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    assert "Failed to export" not in caplog.text

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    OTLPSpanExporter().export([])
    assert "Failed to export" in caplog.text
    caplog.clear()
    caplog.set_level("DEBUG", "bf_hook_otel")
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    assert "Failed to export" in caplog.text


def test_a_collector_that_hangs(
    monkeypatch: pytest.MonkeyPatch, plugin_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What it does not take in time is left behind, and the log says so."""
    monkeypatch.setattr(providers, "_PATIENCE", 0.2)
    asked, free = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.set()
            free.wait(30)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{server.server_port}/v1/traces")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    assert asked.is_set()
    assert "the collector does not answer" in caplog.text
    free.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "bf-otel-close"]:
        thread.join(30)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "nothing is exported: set OTEL_EXPORTER_OTLP_ENDPOINT"),
        (
            {"OTEL_TRACES_EXPORTER": "zipkin"},
            "OTEL_TRACES_EXPORTER=zipkin is not known here: use otlp, console or none",
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "for Prometheus prometheus_port in [plugins.otel]"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "OTLP protocol http/json is not known here",
        ),
        ({"OTEL_SDK_DISABLED": "TRUE"}, "off, since OTEL_SDK_DISABLED says so"),
    ],
)
def test_what_the_environment_asks_for(
    environ: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    plugin_context: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An operator reads why nothing arrives; hooks work all the same."""
    caplog.set_level("INFO")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    plugin = create(plugin_context())
    plugin.warm_up()
    assert said in caplog.text
    draft = new_draft(traceparent=PARENT)
    plugin.before_run(draft)
    plugin.on_end(new_run(traceparent=draft.traceparent), new_outcome())
    assert draft.traceparent == PARENT  # whoever traces nothing leaves the caller's trace as it is
    plugin.close()


def test_the_console_for_a_first_look(
    monkeypatch: pytest.MonkeyPatch, plugin_context: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spans are printed as they end, metrics at the close."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")
    plugin = create(plugin_context())
    a_run(plugin)
    plugin.close()
    said = capsys.readouterr().out
    assert '"name": "invoke_agent"' in said
    assert names.AGENT_DURATION in said


def test_a_meter_provider_of_the_process_wins(
    recorded: Any, plugin_context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its operator adds a reader there; a port of ours is not opened, and the log says why."""
    plugin = create(plugin_context(section={"prometheus_port": 0}))
    plugin.warm_up()
    assert plugin.port is None
    assert "add a PrometheusMetricReader to that provider" in caplog.text
    plugin.close()


def test_a_tracer_provider_that_is_not_the_sdks(plugin_context: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be given ids, so it is not used; the log names it."""

    class Other(trace.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
            return trace.NoOpTracer()

    trace.set_tracer_provider(Other())
    plugin = create(plugin_context())
    plugin.warm_up()
    assert "a tracer provider that is not the SDK's" in caplog.text
    assert "Other" in caplog.text
    plugin.close()
